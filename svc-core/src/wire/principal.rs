//! Callers: one type for every API, layer and use case.

use serde::{Deserialize, Serialize};
pub use steward_proto::common::v1::PrincipalKind as WireKind;

use crate::{
    error::{ErrorKind, PublicError, ServiceError},
    id::{AccountId, TokenId},
};

/// The scope that allows everything.
pub const EVERY_SCOPE: &str = "*";

/// Kind of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// An operator of the plane.
    Admin,
    Account,
    /// An agent of a tenant.
    Agent,
    /// A service of the plane.
    Service,
}

impl From<PrincipalKind> for WireKind {
    fn from(kind: PrincipalKind) -> Self {
        match kind {
            PrincipalKind::Admin => Self::Admin,
            PrincipalKind::Account => Self::Account,
            PrincipalKind::Agent => Self::Agent,
            PrincipalKind::Service => Self::Service,
        }
    }
}

impl TryFrom<WireKind> for PrincipalKind {
    type Error = UnknownKind;

    fn try_from(kind: WireKind) -> Result<Self, UnknownKind> {
        match kind {
            WireKind::Unspecified => Err(UnknownKind),
            WireKind::Admin => Ok(Self::Admin),
            WireKind::Account => Ok(Self::Account),
            WireKind::Agent => Ok(Self::Agent),
            WireKind::Service => Ok(Self::Service),
        }
    }
}

/// A principal kind that is not set.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("principal kind is not set")]
pub struct UnknownKind;

/// A caller, proven by its credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    pub kind: PrincipalKind,
    /// Id of the account or agent, name of the service ("chat-svc"), or id of the admin's token.
    pub subject_id: String,
    /// The tenant of an account or agent, or the tenant that a service acts for.
    pub account_id: Option<AccountId>,
    /// Scopes that the credential allows.
    pub scopes: Vec<String>,
    /// The API token behind the credential, if any.
    pub token_id: Option<TokenId>,
}

/// Refusal of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No credential reached this point.
    #[error("request carries no principal")]
    Missing,
    /// The work belongs to a tenant, and none is named.
    #[error("principal names no account")]
    NoAccount,
}

impl ServiceError for Refused {
    fn public(&self) -> PublicError {
        match self {
            Self::Missing => {
                PublicError::of_kind(ErrorKind::Unauthenticated, "a valid credential is required")
            }
            Self::NoAccount => {
                PublicError::of_kind(ErrorKind::PermissionDenied, "this needs a credential of an account")
            }
        }
    }
}

crate::into_status!(Refused);

impl Principal {
    /// Builds a service that acts for itself or for a tenant.
    pub fn service(name: &str, account_id: Option<AccountId>) -> Self {
        Self {
            kind: PrincipalKind::Service,
            subject_id: name.to_owned(),
            account_id,
            scopes: vec![EVERY_SCOPE.to_owned()],
            token_id: None,
        }
    }

    /// Builds a tenant with every scope, for tests and operator commands.
    pub fn account(account_id: AccountId) -> Self {
        Self {
            kind: PrincipalKind::Account,
            subject_id: account_id.to_string(),
            account_id: Some(account_id),
            scopes: vec![EVERY_SCOPE.to_owned()],
            token_id: None,
        }
    }

    /// Returns whether the credential allows `scope`. Admins and services are limited by kind, not by scope.
    pub fn allows(&self, scope: &str) -> bool {
        scope.is_empty()
            || matches!(self.kind, PrincipalKind::Admin | PrincipalKind::Service)
            || self.scopes.iter().any(|held| held == EVERY_SCOPE || held == scope)
    }

    /// Returns the tenant that the request is about.
    ///
    /// # Errors
    /// [`Refused::NoAccount`] for an admin, or a service that acts for no tenant.
    pub fn account_id(&self) -> Result<AccountId, Refused> {
        self.account_id.ok_or(Refused::NoAccount)
    }
}

/// Returns the principal that the auth layer proved.
///
/// # Errors
/// [`Refused::Missing`] if the request did not pass the layer.
pub fn of<T>(request: &tonic::Request<T>) -> Result<&Principal, Refused> {
    request.extensions().get().ok_or(Refused::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_limit_tenants_and_agents_only() {
        let mut principal = Principal::account(AccountId::new());
        assert!(principal.allows("turns:write"));
        principal.scopes = vec!["sessions:read".to_owned()];
        assert!(
            principal.allows("sessions:read") && !principal.allows("turns:write") && principal.allows("")
        );
        assert!(Principal::service("chat-svc", None).allows("turns:write"));
    }
}
