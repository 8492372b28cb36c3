//! The caller of an API: an operator, an account, an agent or a service. All APIs, layers and use cases use
//! this one type.

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
    /// The tenant to which the account or agent belongs, or for which the service acts.
    pub account_id: Option<AccountId>,
    /// Scopes that the credential allows.
    pub scopes: Vec<String>,
    /// The API token with which the caller authenticated, if any.
    pub token_id: Option<TokenId>,
}

/// A request was refused because of its principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request did not pass the layer that authenticates callers.
    #[error("request carries no principal")]
    Missing,
    /// The request is for a tenant, but the principal names no account.
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
    /// Builds the principal of a service that acts for itself (`None`) or for a tenant.
    pub fn service(name: &str, account_id: Option<AccountId>) -> Self {
        Self {
            kind: PrincipalKind::Service,
            subject_id: name.to_owned(),
            account_id,
            scopes: vec![EVERY_SCOPE.to_owned()],
            token_id: None,
        }
    }

    /// Builds the principal of a tenant with every scope, for tests and operator commands.
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

    /// Returns the tenant for which the call is made.
    ///
    /// # Errors
    /// [`Refused::NoAccount`] for an admin, or for a service that acts for no tenant.
    pub fn account_id(&self) -> Result<AccountId, Refused> {
        self.account_id.ok_or(Refused::NoAccount)
    }
}

/// Returns the principal that the auth layer authenticated.
///
/// # Errors
/// [`Refused::Missing`] if the request did not pass that layer.
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
