//! Who may call what: read from the contract, enforced by one layer in front of every gRPC method.
//!
//! A credential is an API token (`authorization: Bearer stw_…`), resolved at registry-svc, or an assertion of
//! another Steward process ([`crate::wire::assertion`]). Which kinds and scope a method asks for is its
//! `(steward.common.v1.auth)` option; a method without one cannot be served.

pub mod remote;

use std::{borrow::Cow, collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use http::HeaderMap;
use moka::{Expiry, future::Cache};
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::wire::{
    assertion::{METADATA_KEY, Verifier},
    error::{ErrorKind, PublicError, ServiceError},
    principal::{Principal, PrincipalKind, WireKind},
};

/// What every API token starts with.
pub const TOKEN_PREFIX: &str = "stw_";

/// Longest credential that is looked at, bytes.
const MAX_CREDENTIAL: usize = 4096;

/// How long a resolved token is trusted without asking again: revocation takes effect within this.
pub const TOKEN_TTL: Duration = Duration::from_secs(5);

/// How long a refused token is refused without asking again.
pub const REFUSED_TOKEN_TTL: Duration = Duration::from_secs(1);

/// Why a call was not let through. Callers see one text for every bad credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No credential, or one that proves nothing.
    #[error("credential refused: {0}")]
    Unauthenticated(&'static str),
    /// The credential is good and not enough.
    #[error("{0} may not call this method")]
    Denied(String),
    /// The token could not be looked up.
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

/// What a method asks of its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodAuth {
    /// No credential is asked for.
    pub public: bool,
    /// Kinds that may call.
    pub kinds: Vec<PrincipalKind>,
    /// Scope that a tenant's or agent's credential must carry; empty = none.
    pub scope: String,
}

impl MethodAuth {
    /// Whether `principal` may call.
    ///
    /// # Errors
    /// [`Error::Denied`] if its kind or scopes do not allow it.
    pub fn admit(&self, principal: &Principal) -> Result<(), Error> {
        if self.public || (self.kinds.contains(&principal.kind) && principal.allows(&self.scope)) {
            Ok(())
        } else {
            Err(Error::Denied(format!("{:?} {}", principal.kind, principal.subject_id)))
        }
    }
}

/// One method of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Who may call.
    pub auth: MethodAuth,
    /// Whether it answers with a stream.
    pub server_streaming: bool,
}

/// Every method of the contract by its gRPC path (`/steward.chat.v1.ChatService/GetTurn`).
#[derive(Debug, Clone)]
pub struct Methods(HashMap<String, Method>);

/// A contract that cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The descriptor set does not decode.
    #[error("descriptor set does not decode")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// A method does not say who may call it.
    #[error("{0} has no (steward.common.v1.auth) option")]
    NoAuth(String),
}

impl Methods {
    /// The contract's methods.
    ///
    /// # Errors
    /// [`ContractError`] if a method does not say who may call it.
    pub fn from_contract() -> Result<Self, ContractError> {
        let pool = DescriptorPool::decode(steward_proto::DESCRIPTORS).map_err(ContractError::Descriptors)?;
        let mut methods = HashMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let auth = method_auth(&pool, &method.options())
                    .ok_or_else(|| ContractError::NoAuth(method.full_name().to_owned()))?;
                let path = format!("/{}/{}", service.full_name(), method.name());
                methods.insert(path, Method { auth, server_streaming: method.is_server_streaming() });
            }
        }
        Ok(Self(methods))
    }

    /// The method at a gRPC path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }

    /// Every path.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn method_auth(pool: &DescriptorPool, options: &DynamicMessage) -> Option<MethodAuth> {
    let extension = pool.get_extension_by_name("steward.common.v1.auth")?;
    if !options.has_extension(&extension) {
        return None;
    }
    let value = options.get_extension(&extension);
    let auth = value.as_message()?;
    let field = |name: &str| auth.get_field_by_name(name).map(Cow::into_owned);
    let kinds = match field("kinds")? {
        Value::List(kinds) => kinds
            .iter()
            .filter_map(|kind| WireKind::try_from(kind.as_enum_number()?).ok()?.try_into().ok())
            .collect(),
        _ => Vec::new(),
    };
    let auth = MethodAuth {
        public: field("public")?.as_bool()?,
        kinds,
        scope: field("scope")?.as_str()?.to_owned(),
    };
    // An option that admits nobody was left half written.
    (auth.public || !auth.kinds.is_empty()).then_some(auth)
}

/// The table `[tokens]` of services that ask registry-svc for them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Maximum number of tokens whose principal is cached.
    pub remembered: u64,
}

/// Looks up API tokens.
#[tonic::async_trait]
pub trait TokenResolver: Debug + Send + Sync {
    /// The principal of a token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if there is no such live token, [`Error::Unavailable`] if nobody can tell.
    async fn resolve(&self, token: &str) -> Result<Principal, Error>;
}

/// Remembers what a [`TokenResolver`] said: [`TOKEN_TTL`] for principals, [`REFUSED_TOKEN_TTL`] for refusals,
/// never for "cannot tell". Tokens are kept as hashes.
#[derive(Debug, Clone)]
pub struct CachedTokens {
    inner: Arc<dyn TokenResolver>,
    cache: Cache<[u8; 32], Option<Principal>>,
}

struct ByVerdict {
    live: Duration,
}

impl Expiry<[u8; 32], Option<Principal>> for ByVerdict {
    fn expire_after_create(
        &self,
        _token: &[u8; 32],
        verdict: &Option<Principal>,
        _at: std::time::Instant,
    ) -> Option<Duration> {
        Some(if verdict.is_some() { self.live } else { REFUSED_TOKEN_TTL })
    }
}

impl CachedTokens {
    /// A cache of at most `capacity` tokens in front of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn TokenResolver>, capacity: u64) -> Self {
        Self::with_ttl(inner, capacity, TOKEN_TTL)
    }

    /// One that trusts a resolved token for `live` only. Whoever asks again every now and then adds its period
    /// to that: together they must stay within [`TOKEN_TTL`].
    #[must_use]
    pub fn with_ttl(inner: Arc<dyn TokenResolver>, capacity: u64, live: Duration) -> Self {
        Self {
            inner,
            cache: Cache::builder().max_capacity(capacity).expire_after(ByVerdict { live }).build(),
        }
    }
}

#[tonic::async_trait]
impl TokenResolver for CachedTokens {
    async fn resolve(&self, token: &str) -> Result<Principal, Error> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let looked_up = self.cache.try_get_with(key, async {
            match self.inner.resolve(token).await {
                Ok(principal) => Ok(Some(principal)),
                Err(Error::Unauthenticated(_)) => Ok(None),
                Err(other) => Err(other),
            }
        });
        match looked_up.await {
            Ok(Some(principal)) => Ok(principal),
            Ok(None) => Err(Error::Unauthenticated("token is not live")),
            Err(error) => Err(Error::clone(&error)),
        }
    }
}

/// A presented credential, kept with a long request so that it can be asked again.
#[derive(Debug, Clone)]
pub enum Credential {
    /// An API token; it may be revoked while the request runs.
    Token {
        /// The token.
        token: secrecy::SecretString,
        /// Who can tell.
        tokens: Arc<dyn TokenResolver>,
    },
    /// An assertion: its issuer watches the credential behind it.
    Assertion,
}

impl Credential {
    /// Asks again. "Cannot tell" is not a refusal.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] once the credential is no longer good.
    pub async fn check_again(&self) -> Result<(), Error> {
        match self {
            Self::Assertion => Ok(()),
            Self::Token { token, tokens } => {
                match tokens.resolve(secrecy::ExposeSecret::expose_secret(token)).await {
                    Ok(_) | Err(Error::Unavailable(_)) => Ok(()),
                    Err(refused) => Err(refused),
                }
            }
        }
    }
}

/// Proves callers to one service.
#[derive(Debug, Clone)]
pub struct Authenticator {
    methods: Arc<Methods>,
    verifier: Arc<Verifier>,
    tokens: Arc<dyn TokenResolver>,
}

impl Authenticator {
    /// Enforces the contract with these means of proof.
    #[must_use]
    pub fn new(methods: Arc<Methods>, verifier: Verifier, tokens: Arc<dyn TokenResolver>) -> Self {
        Self { methods, verifier: Arc::new(verifier), tokens }
    }

    /// The contract's methods.
    #[must_use]
    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    /// Proves the caller of the method at `path` and checks that it may call; `None` for public methods.
    ///
    /// # Errors
    /// [`Error`] if the method is not part of the contract or the caller may not call it.
    pub async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Option<(Principal, Credential)>, Error> {
        let method = self.methods.get(path).ok_or_else(|| Error::Denied(format!("anybody at {path}")))?;
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
                tracing::info!(error = %crate::wire::error::Chain(&error), "assertion refused");
                Error::Unauthenticated("assertion does not verify")
            })?;
            return Ok((principal, Credential::Assertion));
        }
        let token = bearer(headers)?;
        let principal = self.tokens.resolve(token).await?;
        Ok((principal, Credential::Token { token: token.into(), tokens: self.tokens.clone() }))
    }
}

/// The API token in an `authorization` header.
///
/// # Errors
/// [`Error::Unauthenticated`] if there is none, or it is no Steward token.
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::id::AccountId;

    #[test]
    fn every_method_of_the_contract_says_who_may_call_it() {
        let methods = Methods::from_contract().unwrap();
        let run = methods.get("/steward.chat.v1.ChatService/RunTurn").unwrap();
        assert_eq!(run.auth.kinds, [PrincipalKind::Account]);
        assert_eq!(run.auth.scope, "turns:write");
        assert!(run.server_streaming);
        assert!(methods.paths().count() > 30);
    }

    #[test]
    fn kind_and_scope_are_both_needed() {
        let auth = MethodAuth {
            public: false,
            kinds: vec![PrincipalKind::Account],
            scope: "turns:write".to_owned(),
        };
        let mut account = Principal::account(AccountId::new());
        assert!(auth.admit(&account).is_ok());
        account.scopes = vec!["sessions:read".to_owned()];
        assert!(auth.admit(&account).is_err());
        assert!(auth.admit(&Principal::service("chat-svc", None)).is_err());
    }

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

    #[derive(Debug, Default)]
    struct Counting {
        calls: AtomicU32,
    }

    #[tonic::async_trait]
    impl TokenResolver for Counting {
        async fn resolve(&self, token: &str) -> Result<Principal, Error> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            match token {
                "stw_good" => Ok(Principal::service("x", None)),
                "stw_down" => Err(Error::Unavailable("registry is away".to_owned())),
                _ => Err(Error::Unauthenticated("unknown")),
            }
        }
    }

    #[tokio::test]
    async fn verdicts_are_remembered_and_outages_are_not() {
        let inner = Arc::new(Counting::default());
        let cached = CachedTokens::new(inner.clone(), 10);
        for token in ["stw_good", "stw_bad"] {
            let before = inner.calls.load(Ordering::Relaxed);
            let first = cached.resolve(token).await.is_ok();
            assert_eq!(cached.resolve(token).await.is_ok(), first);
            assert_eq!(inner.calls.load(Ordering::Relaxed), before + 1, "{token}");
        }
        let before = inner.calls.load(Ordering::Relaxed);
        for _ in 0..2 {
            assert!(matches!(cached.resolve("stw_down").await, Err(Error::Unavailable(_))));
        }
        assert_eq!(inner.calls.load(Ordering::Relaxed), before + 2);
    }
}
