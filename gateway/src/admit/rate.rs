//! The rate limit: one token bucket in Redis for each principal, shared by every replica.
//!
//! While Redis does not answer, each process uses buckets in its own memory, so a caller gets at most the
//! limit times the number of replicas. The metric `gateway.rate_limit.local` counts requests that were
//! limited in this way.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use moka::future::Cache;
use opentelemetry::metrics::Counter;
use sha2::{Digest, Sha256};
use svc_core::{
    data::{
        data_map::Class,
        redis::{KeyFamily, Redis},
    },
    error::{Chain, ErrorKind},
    wire::principal::Principal,
};
use tokio::time::Instant;

use super::bucket::{Bucket, Policy, Take};
use crate::{
    config::RateLimitConfig,
    headers::{RATE_LIMIT, RATE_LIMIT_POLICY},
    metrics,
    problem::Problem,
};

/// Maximum buckets in this process's memory. At this number the cache evicts one that is used rarely; its
/// caller then starts again with a full bucket.
const MAX_LOCAL: u64 = 100_000;

/// Keys of the buckets in Redis.
const BUCKETS: KeyFamily = KeyFamily {
    name: "gateway-bucket",
    class: Class::System,
    text: "requests left to a caller, by a hash of its kind and id; gone once the bucket had time to fill up",
};

static TAKE: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(include_str!("bucket.lua")));

#[derive(Debug, Clone)]
pub(crate) struct RateLimiter {
    policy: Policy,
    redis: Redis,
    local: Cache<Key, Arc<Mutex<Bucket>>>,
    counted_locally: Counter<u64>,
}

/// Hash of a principal, because Redis must not contain a tenant's id.
type Key = [u8; 32];

impl RateLimiter {
    pub(crate) fn new(config: &RateLimitConfig, redis: Redis) -> Self {
        let policy = Policy { per_second: config.per_second, burst: config.burst };
        // After this time an unused bucket is full, so the cache can drop it: a new bucket is full too.
        let fills_in = Duration::from_secs_f64(f64::from(policy.burst) / f64::from(policy.per_second));
        let idle = fills_in + Duration::from_secs(1);
        Self {
            policy,
            redis,
            local: Cache::builder().max_capacity(MAX_LOCAL).time_to_idle(idle).build(),
            counted_locally: metrics::rate_limit_local(),
        }
    }

    /// Takes one token from the principal's bucket, and writes the rate limit's headers into `headers`.
    ///
    /// # Errors
    /// 429 if the bucket is empty.
    pub(crate) async fn take(&self, principal: &Principal, headers: &mut HeaderMap) -> Result<(), Problem> {
        let key: Key = Sha256::digest(format!("{:?}/{}", principal.kind, principal.subject_id)).into();
        let take = match self.take_shared(&key).await {
            Ok(take) => take,
            Err(error) => {
                if !error.is_down() {
                    tracing::error!(error = %Chain(&error), "rate limits are counted by this process alone");
                }
                self.take_local(key).await
            }
        };
        self.describe(take, headers);
        if take.taken {
            return Ok(());
        }
        let problem =
            Problem::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", "too many requests; retry later");
        Err(problem.retry_after(take.wait))
    }

    async fn take_shared(&self, key: &Key) -> Result<Take, svc_core::data::redis::Error> {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut call = TAKE.key(self.redis.key(&BUCKETS, hex));
        call.arg(self.policy.per_second).arg(self.policy.burst);
        let (taken, left, wait): (u8, u64, u64) = self.redis.script(&call).await?;
        Ok(Take { taken: taken == 1, left, wait: Duration::from_millis(wait) })
    }

    async fn take_local(&self, key: Key) -> Take {
        self.counted_locally.add(1, &[]);
        let now = Instant::now();
        let bucket =
            self.local.get_with(key, async { Arc::new(Mutex::new(Bucket::full(self.policy, now))) }).await;
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.policy, now)
    }

    fn describe(&self, take: Take, headers: &mut HeaderMap) {
        let Policy { per_second, burst } = self.policy;
        let window = burst.div_ceil(per_second).max(1);
        let full_in = (u64::from(burst).saturating_sub(take.left)).div_ceil(u64::from(per_second));
        let fields = [
            (RATE_LIMIT_POLICY, format!("\"principal\";q={burst};w={window}")),
            (RATE_LIMIT, format!("\"principal\";r={};t={full_in}", take.left)),
        ];
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}
