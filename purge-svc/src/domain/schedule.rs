//! When a step that failed is tried again, pure: the time and the random draw come in.
//!
//! Delays double, with jitter, up to a ceiling. A job that keeps failing is *parked*: it is left alone for long
//! stretches, so that it does not take the workers from jobs that can go on, and is never given up by itself.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use svc_core::run::backoff::Backoff;

/// How a job is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How delays grow.
    pub backoff: Backoff,
    /// Failures in a row of one step after which its job is parked.
    pub patience: u32,
    /// How long a parked job is left alone, each time.
    pub parked: Duration,
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// Not before.
    pub at: DateTime<Utc>,
    /// Whether the job is parked until then.
    pub parked: bool,
}

impl Policy {
    /// When to try again after the `failures`th failure in a row (from 1), seen at `now`. A custodian that asked
    /// for more time gets it, up to the length of a parking; `draw` in 0..1 is the jitter.
    #[must_use]
    pub fn again(&self, failures: u32, asked: Option<Duration>, now: DateTime<Utc>, draw: f64) -> Again {
        let parked = failures >= self.patience;
        let delay = if parked {
            self.parked.mul_f64(0.75 + draw.clamp(0.0, 1.0) / 4.0)
        } else {
            self.backoff.delay(failures, draw).max(asked.unwrap_or_default().min(self.parked))
        };
        Again { at: after(now, delay), parked }
    }
}

/// `delay` after `now`.
#[must_use]
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
        patience: 5,
        parked: Duration::from_secs(3600),
    };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn seconds(again: Again) -> i64 {
        (again.at - now()).num_seconds()
    }

    #[test]
    fn delays_double_until_the_job_is_parked() {
        let waits: Vec<_> = (1..=6).map(|n| POLICY.again(n, None, now(), 1.0)).collect();
        assert_eq!(waits.iter().map(|again| seconds(*again)).collect::<Vec<_>>(), [1, 2, 4, 8, 3600, 3600]);
        assert_eq!(
            waits.iter().map(|again| again.parked).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
    }

    #[test]
    fn a_custodian_that_asks_for_time_gets_it_within_bounds() {
        assert_eq!(seconds(POLICY.again(1, Some(Duration::from_secs(30)), now(), 0.0)), 30);
        assert_eq!(seconds(POLICY.again(1, Some(Duration::from_secs(1_000_000)), now(), 0.0)), 3600);
        assert_eq!(seconds(POLICY.again(4, Some(Duration::from_secs(1)), now(), 1.0)), 8);
    }

    proptest! {
        #[test]
        fn a_retry_is_always_later_and_never_later_than_a_parking(
            failures in 1_u32..,
            asked in proptest::option::of(0_u64..1_000_000_000),
            draw in 0.0_f64..=1.0,
        ) {
            let again = POLICY.again(failures, asked.map(Duration::from_secs), now(), draw);
            prop_assert!(again.at > now());
            prop_assert!(again.at <= now() + TimeDelta::seconds(3600));
        }
    }
}
