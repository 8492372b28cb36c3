//! Identifiers: UUIDv7, one type for each kind of thing, so that one cannot stand for another.

use uuid::Uuid;

use crate::wire::error::Invalid;

/// A new identifier; later ones sort after earlier ones.
#[must_use]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Parses an identifier that a caller gave: the hyphenated form, in either case, and nothing else.
///
/// # Errors
/// [`Invalid`] names `field`.
pub fn parse_id(field: &str, text: &str) -> Result<Uuid, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "is required"));
    }
    // Uuid also reads braces, URNs and undashed hex; one thing should have one spelling.
    match text.len() {
        36 => Uuid::parse_str(text).map_err(|_| Invalid::new(field, "must be a UUID")),
        _ => Err(Invalid::new(field, "must be a UUID")),
    }
}

/// Defines identifier types over [`Uuid`].
#[macro_export]
macro_rules! define_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize, ::sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub ::uuid::Uuid);

        impl $name {
            /// A new identifier.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default identifier would be a new one each time")]
            pub fn new() -> Self {
                Self($crate::id::new_id())
            }

            /// Parses what a caller gave for `field`.
            ///
            /// # Errors
            /// [`Invalid`]($crate::wire::error::Invalid) names `field`.
            pub fn parse(field: &str, text: &str) -> Result<Self, $crate::wire::error::Invalid> {
                $crate::id::parse_id(field, text).map(Self)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<::uuid::Uuid> for $name {
            fn from(id: ::uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for ::uuid::Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )+};
}

define_id! {
    /// A tenant.
    AccountId,
    /// A conversation.
    SessionId,
    /// One user input on its way to one answer.
    TurnId,
    /// One stored message.
    MessageId,
    /// One container and its workspace.
    SandboxId,
    /// One enrolled agent.
    AgentId,
    /// One API token.
    TokenId,
    /// One erasure job.
    PurgeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = new_id();
        assert_eq!(parse_id("session_id", &id.to_string()).unwrap(), id);
        assert_eq!(parse_id("session_id", &id.to_string().to_uppercase()).unwrap(), id);
        for bad in
            ["", "1", &id.simple().to_string(), &format!("{{{id}}}"), &id.urn().to_string(), &"x".repeat(36)]
        {
            assert_eq!(parse_id("session_id", bad).unwrap_err().field, "session_id", "{bad}");
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let ids: Vec<_> = (0..1000).map(|_| new_id()).collect();
        assert!(ids.is_sorted());
    }
}
