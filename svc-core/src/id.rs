//! Identifiers: UUIDv7, with one type for each kind of object, so that the compiler refuses an id of the
//! wrong kind.

use uuid::Uuid;

use crate::error::Invalid;

/// Returns a new identifier; identifiers sort in the order in which one process made them.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Parses an identifier from a request. Only the hyphenated form is accepted, in upper or lower case.
///
/// # Errors
/// [`Invalid`] names `field`.
pub fn parse_id(field: &str, text: &str) -> Result<Uuid, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "is required"));
    }
    // Uuid also reads braces, URNs and hex without hyphens; clients should write an identifier in one form.
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
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[derive(::serde::Serialize, ::serde::Deserialize, ::sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub ::uuid::Uuid);

        impl $name {
            #[expect(clippy::new_without_default, reason = "each call makes another identifier")]
            pub fn new() -> Self {
                Self($crate::id::new_id())
            }

            /// Parses the identifier in `field` of a request.
            ///
            /// # Errors
            /// [`Invalid`]($crate::error::Invalid) names `field`.
            pub fn parse(field: &str, text: &str) -> Result<Self, $crate::error::Invalid> {
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
    AccountId,
    SessionId,
    /// One user input and the work until its answer.
    TurnId,
    MessageId,
    /// A container with its workspace.
    SandboxId,
    AgentId,
    TokenId,
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
