//! When to leave a failing engine alone: a pure circuit breaker, the time comes in.
//!
//! Closed until so many failures in a row; then open for a while; then one call is let through to find out.

use std::time::Duration;

use tokio::time::Instant;

/// How patient it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Failures in a row that open it.
    pub(super) failures: u32,
    /// How long it stays open.
    pub(super) rest: Duration,
}

/// The breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    patience: Patience,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One call is out to find out; if nothing is heard of it, the next may go after `until`.
    HalfOpen {
        until: Instant,
    },
}

impl Breaker {
    pub(super) const fn new(patience: Patience) -> Self {
        Self { patience, state: State::Closed { failures: 0 } }
    }

    /// Lets a call through, or says how long to wait.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until } | State::HalfOpen { until } if now < until => Err(until - now),
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::HalfOpen { until: now + self.patience.rest };
                Ok(())
            }
        }
    }

    /// The engine answered.
    pub(super) const fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// The engine did not answer.
    pub(super) fn failed(&mut self, now: Instant) {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Open { .. } | State::HalfOpen { .. } => self.patience.failures,
        };
        self.state = match failures >= self.patience.failures {
            true => State::Open { until: now + self.patience.rest },
            false => State::Closed { failures },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(5);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Patience { failures: 3, rest: REST });
        for _ in 0..3 {
            assert!(breaker.admit(now).is_ok());
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_starts_over() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Patience { failures: 3, rest: REST });
        breaker.failed(now);
        breaker.failed(now);
        breaker.succeeded();
        breaker.failed(now);
        breaker.failed(now);
        assert!(breaker.admit(now).is_ok());
        breaker.failed(now);
        assert_eq!(breaker.admit(now), Err(REST));
    }

    #[test]
    fn after_its_rest_one_call_finds_out() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + REST;
        assert!(breaker.admit(later).is_ok());
        assert_eq!(breaker.admit(later), Err(REST), "a second call while the first is out");
        breaker.succeeded();
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_is_lost_blocks_nobody() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(breaker.admit(now + REST).is_ok());
        breaker.failed(now + REST);
        assert_eq!(breaker.admit(now + REST), Err(REST));
        assert!(breaker.admit(now + 2 * REST).is_ok());
        assert!(breaker.admit(now + 3 * REST).is_ok(), "the lost probe");
    }
}
