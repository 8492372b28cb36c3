//! Resolves API tokens, caches the answers, and checks a token again while a long request runs.

use std::{fmt::Debug, sync::Arc, time::Duration};

use moka::{Expiry, future::Cache};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Error;
use crate::wire::principal::Principal;

/// Maximum time for which a resolved token is accepted without asking again. A revocation takes effect within
/// it, if registry-svc can be reached.
pub const TOKEN_TTL: Duration = Duration::from_secs(5);

/// Maximum time for which a refused token stays refused without asking again.
pub const REFUSED_TOKEN_TTL: Duration = Duration::from_secs(1);

/// The table `[tokens]` of services that resolve tokens at registry-svc.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Maximum number of tokens that are cached with their principals.
    pub remembered: u64,
}

/// Looks up API tokens.
#[tonic::async_trait]
pub trait TokenResolver: Debug + Send + Sync {
    /// Returns the principal of a token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if no live token matches, [`Error::Unavailable`] if the lookup failed.
    async fn resolve(&self, token: &str) -> Result<Principal, Error>;
}

/// Caches the answers of a [`TokenResolver`]: principals for [`TOKEN_TTL`], refusals for
/// [`REFUSED_TOKEN_TTL`]. Failed lookups are not cached. The cache holds the tokens' hashes, not the tokens.
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
    /// Builds a cache of at most `capacity` tokens in front of `inner`.
    pub fn new(inner: Arc<dyn TokenResolver>, capacity: u64) -> Self {
        Self::with_ttl(inner, capacity, TOKEN_TTL)
    }

    /// Builds a cache that keeps principals for `live`. A caller that checks tokens again in a period of its
    /// own must choose `live` so that period and `live` together do not exceed [`TOKEN_TTL`].
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

/// The credential of a caller, kept while a long request runs so that it can be checked again.
#[derive(Debug, Clone)]
pub enum Credential {
    /// An API token; it may be revoked while the request runs.
    Token { token: secrecy::SecretString, tokens: Arc<dyn TokenResolver> },
    /// An assertion. It is not checked again: the process that signed it checks its own caller's credential.
    Assertion,
}

impl Credential {
    /// Checks the credential again. If the lookup fails, the credential stays accepted.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] once the credential is no longer valid.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

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
