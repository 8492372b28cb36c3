//! The rate limit: one token bucket a principal, counted in Redis for every replica together.
//!
//! Redis is a convenience here, never a condition: when it is away, slow or was never configured, each process
//! counts alone (a caller then gets at most the limit times the number of replicas) and `gateway.rate_limit.local`
//! says so. After a failure Redis is left alone for [`PAUSE`], so that its outage costs one short wait a second.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use moka::future::Cache;
use opentelemetry::metrics::Counter;
use redis::{
    Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use svc_core::{error::ErrorKind, principal::Principal};
use tokio::time::Instant;

use super::bucket::{Bucket, Policy, Verdict};
use crate::{config::RateLimitConfig, metrics, problem::Problem};

/// How long Redis is left alone after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Most buckets that one process keeps.
const MAX_LOCAL: u64 = 100_000;

/// Counts requests by principal.
#[derive(Clone)]
pub struct RateLimiter {
    policy: Policy,
    shared: Option<Arc<Shared>>,
    local: Cache<Key, Arc<Mutex<Bucket>>>,
    counted_locally: Counter<u64>,
}

/// A principal, as a hash: nothing outside Postgres names a tenant.
type Key = [u8; 32];

struct Shared {
    redis: ConnectionManager,
    script: Script,
    timeout: Duration,
    started: Instant,
    /// Milliseconds after `started` until which Redis is left alone.
    paused_until: AtomicU64,
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimiter")
            .field("policy", &self.policy)
            .field("shared", &self.shared.is_some())
            .finish()
    }
}

impl RateLimiter {
    /// A limiter; Redis is dialled at the first request.
    ///
    /// # Errors
    /// If the URL is no Redis URL.
    pub fn new(config: &RateLimitConfig) -> Result<Self, redis::RedisError> {
        let url = config.redis_url.expose_secret();
        let shared =
            if url.is_empty() { None } else { Some(Arc::new(Shared::new(url, config.redis_timeout)?)) };
        let policy = Policy { per_second: config.per_second, burst: config.burst };
        // An untouched bucket is full again after this, and then says nothing.
        let fills_in = Duration::from_secs_f64(f64::from(policy.burst) / f64::from(policy.per_second));
        let idle = fills_in + Duration::from_secs(1);
        Ok(Self {
            policy,
            shared,
            local: Cache::builder().max_capacity(MAX_LOCAL).time_to_idle(idle).build(),
            counted_locally: metrics::rate_limit_local(),
        })
    }

    /// Takes one request from the principal's bucket, and writes into `headers` what is left.
    ///
    /// # Errors
    /// 429 once the bucket is empty.
    pub async fn take(&self, principal: &Principal, headers: &mut HeaderMap) -> Result<(), Problem> {
        let key: Key = Sha256::digest(format!("{:?}/{}", principal.kind, principal.subject_id)).into();
        let counted = match &self.shared {
            Some(shared) => shared.take(&key, self.policy).await,
            None => None,
        };
        let verdict = match counted {
            Some(verdict) => verdict,
            None => self.take_locally(key).await,
        };
        self.describe(verdict, headers);
        if verdict.taken {
            return Ok(());
        }
        let problem =
            Problem::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", "too many requests; retry later");
        Err(problem.retry_after(verdict.wait))
    }

    async fn take_locally(&self, key: Key) -> Verdict {
        self.counted_locally.add(1, &[]);
        let now = Instant::now();
        let bucket =
            self.local.get_with(key, async { Arc::new(Mutex::new(Bucket::full(self.policy, now))) }).await;
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.policy, now)
    }

    /// The `RateLimit` header fields of the IETF draft.
    fn describe(&self, verdict: Verdict, headers: &mut HeaderMap) {
        let Policy { per_second, burst } = self.policy;
        let window = burst.div_ceil(per_second).max(1);
        let full_in = (u64::from(burst).saturating_sub(verdict.left)).div_ceil(u64::from(per_second));
        let fields = [
            ("ratelimit-policy", format!("\"principal\";q={burst};w={window}")),
            ("ratelimit", format!("\"principal\";r={};t={full_in}", verdict.left)),
        ];
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl Shared {
    fn new(url: &str, timeout: Duration) -> Result<Self, redis::RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_number_of_retries(0);
        Ok(Self {
            redis: ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?,
            script: Script::new(include_str!("bucket.lua")),
            timeout,
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
        })
    }

    /// Counts at Redis; `None` if it does not answer.
    async fn take(&self, key: &Key, policy: Policy) -> Option<Verdict> {
        let now = self.started.elapsed();
        if now < Duration::from_millis(self.paused_until.load(Ordering::Relaxed)) {
            return None;
        }
        let mut redis = self.redis.clone();
        let mut call = self.script.key(name(key));
        call.arg(policy.per_second).arg(policy.burst);
        let asked = tokio::time::timeout(self.timeout, call.invoke_async::<(u8, u64, u64)>(&mut redis));
        let problem = match asked.await {
            Ok(Ok((taken, left, wait))) => {
                return Some(Verdict { taken: taken == 1, left, wait: Duration::from_millis(wait) });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        let until = now + PAUSE;
        self.paused_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        tracing::warn!(
            error = problem,
            "rate limits are counted by this process alone: Redis does not answer"
        );
        None
    }
}

fn name(key: &Key) -> Vec<u8> {
    let mut name = b"gateway:bucket:".to_vec();
    name.extend(key.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
    name
}
