//! A circuit breaker without I/O; callers pass the time.
//!
//! While it is *closed*, calls pass and failures in a row are counted. At the threshold, or when the called
//! side asks for a pause, it *opens* and refuses calls until its cool-down is over. Then it is *half-open*:
//! one call, the probe, may pass, and its outcome closes or reopens the breaker. If a probe reports no
//! outcome (its caller crashed), the next call becomes the probe after [`BreakerPolicy::probe_timeout`].
//!
//! A [`Permit`] contains the generation in which it was given. A new generation begins when the breaker
//! opens, closes or begins a probe, so that the late outcome of an earlier call is ignored. The state is
//! plain data, so that replicas can share it; for the same reason times are wall-clock times.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Thresholds and times of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerPolicy {
    /// Number of failures in a row that opens the breaker.
    pub threshold: u32,
    /// Time for which the breaker stays open after failures.
    #[serde(with = "humantime_serde")]
    pub cooldown: Duration,
    /// Maximum time for which the breaker stays open if the called side asks for a pause.
    #[serde(with = "humantime_serde")]
    pub longest_cooldown: Duration,
    /// Maximum wait for the outcome of a probe. After it the next call becomes the probe.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            threshold: 5,
            cooldown: seconds(60),
            longest_cooldown: seconds(900),
            probe_timeout: seconds(120),
        }
    }
}

/// Health of the called side, as one call showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Success,
    Failure,
    /// The called side asks for a pause of this length. The breaker opens at once.
    OpenFor(Duration),
    /// The call showed nothing: the caller ended it, or the request was faulty.
    Nothing,
}

/// Permission to make one call. The caller passes it to [`Breaker::record`] with the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a half-open breaker closes only after the outcome of its probe is recorded"]
pub struct Permit {
    generation: u64,
}

/// The breaker is open, or its probe is running, so the call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("breaker is open for another {retry_after:?}")]
pub struct Refused {
    /// Time until the breaker lets a call through again.
    pub retry_after: Duration,
}

/// State of a breaker, for health reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Closed,
    Open,
    /// The next call is the probe, or the probe is running.
    HalfOpen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breaker {
    generation: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum State {
    Closed { failures: u32 },
    Open { until: DateTime<Utc> },
    Probing { until: DateTime<Utc> },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Asks for permission to make a call.
    ///
    /// # Errors
    /// [`Refused`] while the breaker is open, or half-open with its probe running.
    pub fn admit(&mut self, policy: &BreakerPolicy, now: DateTime<Utc>) -> Result<Permit, Refused> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } | State::Probing { until } if until > now => {
                return Err(Refused { retry_after: (until - now).to_std().unwrap_or_default() });
            }
            State::Open { .. } | State::Probing { .. } => {
                self.enter(State::Probing { until: after(now, policy.probe_timeout) });
            }
        }
        Ok(Permit { generation: self.generation })
    }

    /// Records the outcome of a call. It is ignored if the breaker opened, closed or began a probe since the
    /// permit was given.
    pub fn record(&mut self, permit: Permit, verdict: Verdict, policy: &BreakerPolicy, now: DateTime<Utc>) {
        if permit.generation != self.generation {
            return;
        }
        let open_for = |cooldown: Duration| State::Open { until: after(now, cooldown) };
        match (self.state, verdict) {
            (State::Open { .. }, _) | (State::Closed { .. }, Verdict::Nothing) => {}
            (_, Verdict::OpenFor(asked)) => self.enter(open_for(asked.min(policy.longest_cooldown))),
            (State::Closed { .. }, Verdict::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Verdict::Failure) => {
                let failures = failures.saturating_add(1);
                if failures >= policy.threshold {
                    self.enter(open_for(policy.cooldown));
                } else {
                    self.state = State::Closed { failures };
                }
            }
            (State::Probing { .. }, Verdict::Success) => self.enter(State::Closed { failures: 0 }),
            (State::Probing { .. }, Verdict::Failure) => self.enter(open_for(policy.cooldown)),
            // The probe showed nothing, so the next call becomes the probe.
            (State::Probing { .. }, Verdict::Nothing) => self.enter(State::Open { until: now }),
        }
    }

    pub fn position(&self, now: DateTime<Utc>) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { until } if until > now => Position::Open,
            State::Open { .. } | State::Probing { .. } => Position::HalfOpen,
        }
    }

    const fn enter(&mut self, state: State) {
        self.generation += 1;
        self.state = state;
    }
}

fn after(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(delay)
        .ok()
        .and_then(|delay| now.checked_add_signed(delay))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        threshold: 3,
        cooldown: Duration::from_secs(60),
        longest_cooldown: Duration::from_secs(900),
        probe_timeout: Duration::from_secs(30),
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
    }

    /// Makes one call at one instant, from permission to outcome.
    fn call(breaker: &mut Breaker, verdict: Verdict, second: i64) -> Result<(), Refused> {
        let permit = breaker.admit(&POLICY, at(second))?;
        breaker.record(permit, verdict, &POLICY, at(second));
        Ok(())
    }

    fn opened(second: i64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..POLICY.threshold {
            call(&mut breaker, Verdict::Failure, second).unwrap();
        }
        assert_eq!(breaker.position(at(second)), Position::Open);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_resets_the_count() {
        let mut breaker = Breaker::default();
        for verdict in
            [Verdict::Failure, Verdict::Failure, Verdict::Success, Verdict::Failure, Verdict::Failure]
        {
            call(&mut breaker, verdict, 0).unwrap();
        }
        assert_eq!(breaker.position(at(0)), Position::Closed);
        call(&mut breaker, Verdict::Nothing, 0).unwrap();
        call(&mut breaker, Verdict::Failure, 0).unwrap();
        assert_eq!(
            call(&mut breaker, Verdict::Success, 10),
            Err(Refused { retry_after: Duration::from_secs(50) })
        );
    }

    #[test]
    fn after_the_cooldown_exactly_one_call_goes_through() {
        let mut breaker = opened(0);
        let probe = breaker.admit(&POLICY, at(60)).unwrap();
        for second in [60, 61, 89] {
            assert!(breaker.admit(&POLICY, at(second)).is_err(), "{second}");
        }
        breaker.record(probe, Verdict::Success, &POLICY, at(89));
        assert_eq!(breaker.position(at(89)), Position::Closed);
        let _first = breaker.admit(&POLICY, at(89)).unwrap();
        let _second = breaker.admit(&POLICY, at(89)).unwrap();
    }

    #[test]
    fn a_failed_probe_opens_it_and_an_empty_one_allows_the_next() {
        let mut breaker = opened(0);
        call(&mut breaker, Verdict::Failure, 60).unwrap();
        assert_eq!(
            call(&mut breaker, Verdict::Success, 61),
            Err(Refused { retry_after: Duration::from_secs(59) })
        );
        call(&mut breaker, Verdict::Nothing, 120).unwrap();
        assert_eq!(breaker.position(at(120)), Position::HalfOpen);
        call(&mut breaker, Verdict::Success, 120).unwrap();
        assert_eq!(breaker.position(at(120)), Position::Closed);
    }

    #[test]
    fn a_lost_probe_expires_and_its_late_outcome_is_ignored() {
        let mut breaker = opened(0);
        let lost = breaker.admit(&POLICY, at(60)).unwrap();
        let second = breaker.admit(&POLICY, at(90)).unwrap();
        breaker.record(lost, Verdict::Success, &POLICY, at(91));
        assert_eq!(breaker.position(at(91)), Position::HalfOpen);
        breaker.record(second, Verdict::Success, &POLICY, at(92));
        assert_eq!(breaker.position(at(92)), Position::Closed);
    }

    #[test]
    fn late_outcomes_of_calls_from_before_it_opened_mean_nothing() {
        let mut breaker = Breaker::default();
        let (slow, slower) = (breaker.admit(&POLICY, at(0)).unwrap(), breaker.admit(&POLICY, at(0)).unwrap());
        for _ in 0..3 {
            call(&mut breaker, Verdict::Failure, 1).unwrap();
        }
        breaker.record(slow, Verdict::Success, &POLICY, at(2));
        assert_eq!(breaker.position(at(2)), Position::Open);
        let _probe = breaker.admit(&POLICY, at(61)).unwrap();
        breaker.record(slower, Verdict::Failure, &POLICY, at(62));
        assert_eq!(breaker.position(at(62)), Position::HalfOpen);
    }

    #[test]
    fn a_limit_opens_it_at_once_for_as_long_as_asked_within_reason() {
        let mut breaker = Breaker::default();
        call(&mut breaker, Verdict::OpenFor(Duration::from_secs(7)), 0).unwrap();
        assert_eq!(
            call(&mut breaker, Verdict::Success, 0),
            Err(Refused { retry_after: Duration::from_secs(7) })
        );
        call(&mut breaker, Verdict::OpenFor(Duration::MAX), 7).unwrap();
        assert_eq!(
            call(&mut breaker, Verdict::Success, 7),
            Err(Refused { retry_after: POLICY.longest_cooldown })
        );
    }

    #[test]
    fn a_breaker_survives_being_stored() {
        let breaker = opened(0);
        let stored = serde_json::to_string(&breaker).unwrap();
        assert_eq!(serde_json::from_str::<Breaker>(&stored).unwrap(), breaker);
    }

    proptest! {
        #[test]
        fn while_not_closed_at_most_one_call_is_under_way(
            moves in proptest::collection::vec((0..40_i64, 0..4_usize, any::<bool>()), 1..80),
        ) {
            let (mut breaker, mut now, mut probe) = (Breaker::default(), 0, None);
            for (gap, verdict, answer) in moves {
                now += gap;
                let before = breaker.position(at(now));
                if let Ok(permit) = breaker.admit(&POLICY, at(now)) {
                    prop_assert!(before != Position::Open);
                    if before == Position::HalfOpen {
                        // Another probe passes only after the previous one timed out or has an outcome.
                        if let Some(since) = probe {
                            prop_assert!(now - since >= 30);
                        }
                        probe = Some(now);
                    }
                    if answer {
                        let pause = Verdict::OpenFor(Duration::from_secs(5));
                        let verdict = [Verdict::Success, Verdict::Failure, Verdict::Nothing, pause][verdict];
                        breaker.record(permit, verdict, &POLICY, at(now));
                        probe = None;
                    }
                }
            }
        }
    }
}
