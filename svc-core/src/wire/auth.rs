//! Authentication and authorization of calls. A layer of the gRPC server applies them to every method of the
//! contract.
//!
//! A credential is either an API token (`authorization: Bearer stw_…`), which registry-svc resolves, or an
//! assertion of another Steward process ([`crate::wire::assertion`]). The `(steward.common.v1.auth)` option
//! of a method names the kinds of callers and the scope that the method admits. If a method has no such
//! option, no service starts.

mod contract;
pub mod remote;
mod tokens;

use std::sync::Arc;

use http::HeaderMap;

pub use self::{
    contract::{ContractError, Method, MethodAuth, Methods},
    tokens::{CachedTokens, Credential, REFUSED_TOKEN_TTL, TOKEN_TTL, TokenResolver, TokensConfig},
};
use crate::{
    error::{ErrorKind, PublicError, ServiceError},
    wire::{
        assertion::{METADATA_KEY, Verifier},
        principal::Principal,
    },
};

/// Prefix of every API token.
pub const TOKEN_PREFIX: &str = "stw_";

/// Maximum bytes of a credential. A longer one is refused without being checked.
const MAX_CREDENTIAL: usize = 4096;

/// A call was refused. Callers get the same text for every bad credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The call has no credential, or one that is not valid.
    #[error("credential refused: {0}")]
    Unauthenticated(&'static str),
    /// The credential is valid but does not allow the method.
    #[error("{0} may not call this method")]
    Denied(String),
    /// The token could not be looked up, so it is unknown whether it is valid.
    #[error("token cannot be resolved now: {0}")]
    Unavailable(String),
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        let (kind, message) = match self {
            Self::Unauthenticated(_) => (ErrorKind::Unauthenticated, "a valid credential is required"),
            Self::Denied(_) => (ErrorKind::PermissionDenied, "this credential does not allow it"),
            Self::Unavailable(_) => (ErrorKind::Unavailable, "credentials cannot be checked right now"),
        };
        PublicError::of_kind(kind, message)
    }
}

/// Authenticates the callers of one service.
#[derive(Debug, Clone)]
pub struct Authenticator {
    methods: Arc<Methods>,
    verifier: Arc<Verifier>,
    tokens: Arc<dyn TokenResolver>,
}

impl Authenticator {
    /// Builds an authenticator. `verifier` checks assertions, `tokens` resolves API tokens.
    pub fn new(methods: Arc<Methods>, verifier: Verifier, tokens: Arc<dyn TokenResolver>) -> Self {
        Self { methods, verifier: Arc::new(verifier), tokens }
    }

    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    /// Authenticates the caller of the method at `path`, and checks that the caller may call it. Returns the
    /// caller and its credential; `None` if the method is public.
    ///
    /// # Errors
    /// [`Error`] if the contract has no such method, the credential is not valid or could not be looked up,
    /// or the caller may not call the method.
    pub async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Option<(Principal, Credential)>, Error> {
        let method =
            self.methods.get(path).ok_or_else(|| Error::Denied(format!("caller of unknown {path}")))?;
        if method.auth.public {
            return Ok(None);
        }
        let (principal, credential) = self.authenticate(headers).await?;
        method.auth.admit(&principal)?;
        Ok(Some((principal, credential)))
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<(Principal, Credential), Error> {
        if let Some(assertion) = headers.get(METADATA_KEY) {
            let text = assertion.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIAL);
            let text = text.ok_or(Error::Unauthenticated("assertion is not text"))?;
            let principal = self.verifier.verify(text).map_err(|error| {
                tracing::info!(error = %crate::error::Chain(&error), "assertion refused");
                Error::Unauthenticated("assertion does not verify")
            })?;
            return Ok((principal, Credential::Assertion));
        }
        let token = bearer(headers)?;
        let principal = self.tokens.resolve(token).await?;
        Ok((principal, Credential::Token { token: token.into(), tokens: self.tokens.clone() }))
    }
}

/// Returns the API token in the `authorization` header.
///
/// # Errors
/// [`Error::Unauthenticated`] if there is no such header, or it has no Steward token.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let header = headers.get(http::header::AUTHORIZATION).ok_or(Error::Unauthenticated("no credential"))?;
    let text = header.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIAL);
    let (scheme, token) =
        text.and_then(|text| text.split_once(' ')).ok_or(Error::Unauthenticated("not a bearer"))?;
    // RFC 9110: the scheme's name is case-insensitive.
    if scheme.eq_ignore_ascii_case("bearer") && token.starts_with(TOKEN_PREFIX) && !token.contains(' ') {
        Ok(token)
    } else {
        Err(Error::Unauthenticated("not a Steward token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steward_bearers_are_looked_up() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            bearer(&headers).map(str::to_owned).ok()
        };
        assert_eq!(with("Bearer stw_abc").as_deref(), Some("stw_abc"));
        assert_eq!(with("bearer stw_abc").as_deref(), Some("stw_abc"));
        for bad in ["stw_abc", "Basic stw_abc", "Bearer", "Bearer abc", "Bearer  stw_abc", "Bearer stw_a b"] {
            assert_eq!(with(bad), None, "{bad}");
        }
        assert!(with(&format!("Bearer stw_{}", "x".repeat(5000))).is_none());
    }
}
