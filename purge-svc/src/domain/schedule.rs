//! Computes the time of the next attempt after a failed step. It is pure: the time and the random draw are
//! arguments.
//!
//! Delays double, with jitter, up to a maximum. A job that keeps failing is *parked*: its attempts are far
//! apart, so that it leaves the workers to jobs that can progress. No failure ends a job.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use svc_core::run::backoff::Backoff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Delays before a job is parked.
    pub backoff: Backoff,
    /// Failures in a row of one step after which its job is parked.
    pub max_failures: u32,
    /// Maximum delay between two attempts of a parked job; jitter shortens it by up to a quarter.
    pub parked: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    pub at: DateTime<Utc>,
    /// Whether the job is parked until then.
    pub parked: bool,
}

impl Policy {
    /// Returns the next attempt after the `failures`th failure in a row (from 1) at `now`. If the custodian
    /// asked for a longer delay, that delay is used, up to `parked`; a parked job ignores it. `draw` in 0..1
    /// is the jitter.
    pub fn retry(&self, failures: u32, asked: Option<Duration>, now: DateTime<Utc>, draw: f64) -> Retry {
        let parked = failures >= self.max_failures;
        let delay = if parked {
            self.parked.mul_f64(0.75 + draw.clamp(0.0, 1.0) / 4.0)
        } else {
            self.backoff.delay(failures, draw).max(asked.unwrap_or_default().min(self.parked))
        };
        Retry { at: after(now, delay), parked }
    }
}

pub fn after(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        max_failures: 5,
        parked: Duration::from_secs(3600),
    };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn seconds(retry: Retry) -> i64 {
        (retry.at - now()).num_seconds()
    }

    #[test]
    fn delays_double_until_the_job_is_parked() {
        let waits: Vec<_> = (1..=6).map(|n| POLICY.retry(n, None, now(), 1.0)).collect();
        assert_eq!(waits.iter().map(|retry| seconds(*retry)).collect::<Vec<_>>(), [1, 2, 4, 8, 3600, 3600]);
        assert_eq!(
            waits.iter().map(|retry| retry.parked).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
    }

    #[test]
    fn a_custodian_that_asks_for_time_gets_it_within_bounds() {
        assert_eq!(seconds(POLICY.retry(1, Some(Duration::from_secs(30)), now(), 0.0)), 30);
        assert_eq!(seconds(POLICY.retry(1, Some(Duration::from_secs(1_000_000)), now(), 0.0)), 3600);
        assert_eq!(seconds(POLICY.retry(4, Some(Duration::from_secs(1)), now(), 1.0)), 8);
    }

    proptest! {
        #[test]
        fn a_retry_is_always_later_and_never_later_than_a_parking(
            failures in 1_u32..,
            asked in proptest::option::of(0_u64..1_000_000_000),
            draw in 0.0_f64..=1.0,
        ) {
            let retry = POLICY.retry(failures, asked.map(Duration::from_secs), now(), draw);
            prop_assert!(retry.at > now());
            prop_assert!(retry.at <= now() + TimeDelta::seconds(3600));
        }
    }
}
