//! A token bucket as pure arithmetic; `bucket.lua` computes the same in Redis.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policy {
    /// Tokens added each second.
    pub(super) per_second: u32,
    /// Maximum tokens in a bucket.
    pub(super) burst: u32,
}

/// Result of an attempt to take one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Take {
    pub(super) taken: bool,
    /// Whole tokens left in the bucket.
    pub(super) left: u64,
    /// Time until the bucket has a token again; zero if one was taken.
    pub(super) wait: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(policy: Policy, now: Instant) -> Self {
        Self { tokens: f64::from(policy.burst), at: now }
    }

    pub(super) fn take(&mut self, policy: Policy, now: Instant) -> Take {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        let rate = f64::from(policy.per_second);
        self.tokens = f64::from(policy.burst).min(self.tokens + since * rate);
        self.at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        let wait = if taken { 0.0 } else { (1.0 - self.tokens) / rate };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to burst, a u32")]
        let left = self.tokens as u64;
        Take { taken, left, wait: Duration::from_secs_f64(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let policy = Policy { per_second: 2, burst: 3 };
        let start = Instant::now();
        let mut bucket = Bucket::full(policy, start);
        let left: Vec<_> = (0..3).map(|_| bucket.take(policy, start)).map(|v| (v.taken, v.left)).collect();
        assert_eq!(left, [(true, 2), (true, 1), (true, 0)]);
        let refused = bucket.take(policy, start);
        assert_eq!(refused, Take { taken: false, left: 0, wait: Duration::from_millis(500) });
        assert!(!bucket.take(policy, start + Duration::from_millis(499)).taken);
        assert!(bucket.take(policy, start + Duration::from_millis(500)).taken);
        assert_eq!(bucket.take(policy, start + Duration::from_secs(3600)).left, 2);
    }
}
