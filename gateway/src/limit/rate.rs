//! The rate limit: one token bucket a principal, counted in Redis for every replica together.
//!
//! Redis is a convenience here, never a condition: when it is away or slow, each process counts alone (a caller
//! then gets at most the limit times the number of replicas) and `gateway.rate_limit.local` says so.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use moka::future::Cache;
use opentelemetry::metrics::Counter;
use sha2::{Digest, Sha256};
use svc_core::{
    custody::data_map::Class,
    data::redis::{KeyFamily, Redis},
    wire::{
        error::{Chain, ErrorKind},
        principal::Principal,
    },
};
use tokio::time::Instant;

use super::bucket::{Bucket, Policy, Verdict};
use crate::{config::RateLimitConfig, metrics, problem::Problem};

/// Most buckets that one process keeps.
const MAX_LOCAL: u64 = 100_000;

/// The buckets in Redis.
pub const BUCKETS: KeyFamily = KeyFamily {
    name: "gateway-bucket",
    class: Class::System,
    text: "requests left to a caller, by a hash of its kind and id; gone once the bucket had time to fill up",
};

static TAKE: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(include_str!("bucket.lua")));

/// Counts requests by principal.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    policy: Policy,
    redis: Redis,
    local: Cache<Key, Arc<Mutex<Bucket>>>,
    counted_locally: Counter<u64>,
}

/// A principal, as a hash: nothing outside Postgres names a tenant.
type Key = [u8; 32];

impl RateLimiter {
    /// A limiter that counts in `redis` while it is there.
    #[must_use]
    pub fn new(config: &RateLimitConfig, redis: Redis) -> Self {
        let policy = Policy { per_second: config.per_second, burst: config.burst };
        // An untouched bucket is full again after this, and then says nothing.
        let fills_in = Duration::from_secs_f64(f64::from(policy.burst) / f64::from(policy.per_second));
        let idle = fills_in + Duration::from_secs(1);
        Self {
            policy,
            redis,
            local: Cache::builder().max_capacity(MAX_LOCAL).time_to_idle(idle).build(),
            counted_locally: metrics::rate_limit_local(),
        }
    }

    /// Takes one request from the principal's bucket, and writes into `headers` what is left.
    ///
    /// # Errors
    /// 429 once the bucket is empty.
    pub async fn take(&self, principal: &Principal, headers: &mut HeaderMap) -> Result<(), Problem> {
        let key: Key = Sha256::digest(format!("{:?}/{}", principal.kind, principal.subject_id)).into();
        let verdict = match self.take_together(&key).await {
            Ok(verdict) => verdict,
            Err(error) => {
                if !error.is_down() {
                    tracing::error!(error = %Chain(&error), "rate limits are counted by this process alone");
                }
                self.take_alone(key).await
            }
        };
        self.describe(verdict, headers);
        if verdict.taken {
            return Ok(());
        }
        let problem =
            Problem::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", "too many requests; retry later");
        Err(problem.retry_after(verdict.wait))
    }

    async fn take_together(&self, key: &Key) -> Result<Verdict, svc_core::data::redis::Error> {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut call = TAKE.key(self.redis.key(&BUCKETS, hex));
        call.arg(self.policy.per_second).arg(self.policy.burst);
        let (taken, left, wait): (u8, u64, u64) = self.redis.script(&call).await?;
        Ok(Verdict { taken: taken == 1, left, wait: Duration::from_millis(wait) })
    }

    async fn take_alone(&self, key: Key) -> Verdict {
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
