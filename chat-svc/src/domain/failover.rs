//! Decides what follows a failed model call: a retry, the next model of the route, or the turn's failure. No
//! I/O.
//!
//! A route is an ordered list of models. A [`Walk`] is the position of one turn in its route; it only moves
//! forwards. It follows three rules:
//!
//! * **While clients have seen no content of the open step**, a failed call is repeated and no event voids
//!   anything: on the same model while that may help ([`FailureClass::retry_may_help`]) and retries are left,
//!   else on the next model.
//! * **Once clients have seen content**, the model that failed is not asked again. The next model continues
//!   the text ([`Next::Splice`]) if it can and only text was shown; else the step is voided
//!   ([`Next::Reset`]). Clients get an event for either.
//! * **If the request itself is invalid**, the walk gives up, because no model accepts it.
//!
//! Before the caller acts on a [`Next`] (writes a reset, sleeps a delay), it asks the circuit breaker of that
//! model. If the breaker is open, it calls [`Walk::refused`].

use std::time::Duration;

use svc_core::run::backoff::Backoff;

use super::failure::{FailureClass, ResetCause};

/// Retries of one model within one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RetryPolicy {
    /// Maximum retries on the same model before the next one is asked.
    pub retries: u32,
    pub backoff: Backoff,
    /// Maximum delay before a retry on the same model. If the upstream asks for a longer one (Retry-After),
    /// the next model of the route is asked at once instead.
    pub longest_wait: Duration,
}

/// Properties of one model of a route that the walk needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Whether it can continue an answer that another model began.
    pub prefill: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub class: FailureClass,
    /// Pause that the upstream asked for.
    pub retry_after: Option<Duration>,
}

/// The part of the open step that clients have seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Sequence number of the step's first event; `None` if no content is visible. A reset voids the events
    /// from here on.
    pub from_seq: Option<i64>,
    /// Bytes of visible text.
    pub text_bytes: usize,
    /// Whether something besides text is visible.
    pub beyond_text: bool,
}

/// The next action. `candidate` is an index into the route, `attempt` the number of the attempt at the step,
/// from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask this model after `delay`. No content of an earlier attempt is visible.
    Ask { candidate: usize, attempt: i32, delay: Duration },
    /// Let this model continue the visible text, of which `kept_bytes` stay valid.
    Splice { candidate: usize, attempt: i32, kept_bytes: usize, cause: ResetCause },
    /// Void the step's events from `from_seq` on, then ask this model.
    Reset { candidate: usize, attempt: i32, from_seq: i64, cause: ResetCause },
    /// The route has no more models to ask, or no model can help. The turn fails with `primary`: the class of
    /// the last failure, or a class that stands for open breakers if this worker saw no failure.
    GiveUp { primary: FailureClass },
}

/// A turn's position in its route.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    route: Vec<Candidate>,
    policy: RetryPolicy,
    at: usize,
    attempt: i32,
    /// Failed calls to the model at `at` within this step.
    failed_here: u32,
    /// Why the open step needs another attempt; clients read it in the reset or splice.
    cause: Option<ResetCause>,
    last_failure: Option<FailureClass>,
}

impl Walk {
    /// Starts a walk at candidate `at`: 0 for a new turn, the model asked last for a turn that was taken
    /// over.
    pub(crate) fn new(route: Vec<Candidate>, at: usize, policy: RetryPolicy) -> Self {
        Self { route, policy, at, attempt: 0, failed_here: 0, cause: None, last_failure: None }
    }

    /// Begins a step on the model that answered the step before. Models that failed earlier in the turn are
    /// not asked again.
    pub(crate) fn begin_step(&mut self) -> Next {
        self.attempt = 0;
        self.failed_here = 0;
        self.cause = None;
        self.ask_here(Shown::default())
    }

    /// Repeats the step that the previous worker left open, on the same model: the worker failed, not the
    /// model. `attempts` is the number of attempts that the step has had.
    pub(crate) fn take_over(&mut self, attempts: i32, shown: Shown) -> Next {
        self.attempt = attempts;
        self.failed_here = 0;
        self.cause = Some(ResetCause::Takeover);
        self.ask_here(shown)
    }

    /// Decides what follows a failed call. `draw`, a random number in 0..1, is the jitter of the delay.
    pub(crate) fn failed(&mut self, failure: Failure, shown: Shown, draw: f64) -> Next {
        let Failure { class, retry_after } = failure;
        self.last_failure = Some(class);
        self.failed_here = self.failed_here.saturating_add(1);
        self.cause = Some(ResetCause::Model(class));
        if !class.failover_may_help() {
            return self.give_up();
        }
        let delay = self.policy.backoff.delay(self.failed_here, draw).max(retry_after.unwrap_or_default());
        if shown.from_seq.is_none()
            && class.retry_may_help()
            && self.failed_here <= self.policy.retries
            && delay <= self.policy.longest_wait
        {
            self.attempt += 1;
            return Next::Ask { candidate: self.at, attempt: self.attempt, delay };
        }
        self.at += 1;
        self.failed_here = 0;
        self.ask_here(shown)
    }

    /// Decides what follows if the next model's breaker is open. The call was not made, so it counts neither
    /// as a failure nor as an attempt.
    pub(crate) fn refused(&mut self, shown: Shown) -> Next {
        self.attempt -= 1;
        self.at += 1;
        self.failed_here = 0;
        self.ask_here(shown)
    }

    fn ask_here(&mut self, shown: Shown) -> Next {
        let Some(here) = self.route.get(self.at) else { return self.give_up() };
        self.attempt += 1;
        let (candidate, attempt) = (self.at, self.attempt);
        match (shown.from_seq, self.cause) {
            (Some(_), Some(cause)) if here.prefill && !shown.beyond_text && shown.text_bytes > 0 => {
                Next::Splice { candidate, attempt, kept_bytes: shown.text_bytes, cause }
            }
            (Some(from_seq), Some(cause)) => Next::Reset { candidate, attempt, from_seq, cause },
            (None, _) | (_, None) => Next::Ask { candidate, attempt, delay: Duration::ZERO },
        }
    }

    fn give_up(&self) -> Next {
        let primary = match (self.last_failure, self.cause) {
            (Some(last), _) => last,
            // This worker has called no model, because the breakers of all remaining models are open. Clients
            // may have seen a part of the step from the previous worker, so they get the failure of a stream
            // that was cut.
            (None, Some(ResetCause::Takeover)) => FailureClass::Cut,
            // The breakers of all models are open, and clients have no part of the step.
            (None, _) => FailureClass::Transient,
        };
        Next::GiveUp { primary }
    }
}

#[cfg(test)]
mod tests;
