//! What to do after a model call failed: the walk over a route, without I/O.
//!
//! A route is an ordered list of models; a [`Walk`] goes through it forwards only and lives as long as its turn.
//! It owns three rules and guarantees them in every order of events:
//!
//! * **before anything of the open step is visible** a failed call is repeated silently: on the same model
//!   where that may help ([`FailureClass::helps_to_retry`]) and its budget lasts, else on the next;
//! * **after that** never on the same model, and never silently: the next one goes on from the text
//!   ([`Next::Splice`]) if it can and nothing but text was shown, else the step is voided ([`Next::Reset`]);
//! * **where a tool of the open step took effect**, or the request itself is at fault, it gives up: nothing in
//!   doubt is run again.
//!
//! The driver asks the breaker of the model that comes next *before* it acts on a [`Next`] (before a reset is
//! written, a delay slept), and says [`Walk::refused`] if that one does not let it through.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use svc_core::run::backoff::Backoff;

use super::event::ResetCause;

/// Why a model call failed, by what may be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The request itself is at fault: no model will take it.
    InvalidRequest,
    /// This model or this account at its provider refuses it: another model may not.
    Rejected,
    /// Over a rate limit or a quota.
    RateLimited,
    /// The upstream failed, could not be reached, or did not answer in time.
    Transient,
    /// The stream ended before the model did.
    Cut,
    /// The stream stayed open and silent.
    Stalled,
    /// The stream said something that cannot be read.
    Malformed,
    /// The upstream reported an error inside its stream.
    InBand,
    /// The model ended its message without having said anything.
    EmptyTurn,
    /// We stopped it. Never counted against anyone, never followed by another attempt.
    Canceled,
}

/// What a failure says about the health of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEffect {
    /// Nothing: the endpoint did as it should.
    None,
    /// One failure more.
    Failure,
    /// It asks to be left alone: its breaker opens at once.
    OpenAtOnce,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [Self; 10] = [
        Self::InvalidRequest,
        Self::Rejected,
        Self::RateLimited,
        Self::Transient,
        Self::Cut,
        Self::Stalled,
        Self::Malformed,
        Self::InBand,
        Self::EmptyTurn,
        Self::Canceled,
    ];

    /// Stable reason for clients, UPPER_SNAKE.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::InvalidRequest => "MODEL_REQUEST_INVALID",
            Self::Rejected => "MODEL_REJECTED",
            Self::RateLimited => "MODEL_RATE_LIMITED",
            Self::Transient => "MODEL_UNAVAILABLE",
            Self::Cut => "MODEL_STREAM_CUT",
            Self::Stalled => "MODEL_STALLED",
            Self::Malformed => "MODEL_STREAM_MALFORMED",
            Self::InBand => "MODEL_ERROR",
            Self::EmptyTurn => "MODEL_EMPTY_TURN",
            Self::Canceled => "CANCELED",
        }
    }

    /// What a user may read about it.
    #[must_use]
    pub const fn public_message(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the model does not accept this conversation",
            Self::Rejected => "the model's provider refused the call",
            Self::RateLimited => "the model is over its rate limit",
            Self::Transient => "the model is not available",
            Self::Cut => "the model's answer was cut off",
            Self::Stalled => "the model stopped answering",
            Self::Malformed => "the model's answer could not be read",
            Self::InBand => "the model reported an error",
            Self::EmptyTurn => "the model gave no answer",
            Self::Canceled => "the call was canceled",
        }
    }

    /// Whether the same model may do better a moment later. A refusal is deterministic; a limit asks to be left
    /// alone; a stall has cost its patience already.
    #[must_use]
    pub const fn helps_to_retry(self) -> bool {
        match self {
            Self::Transient | Self::Cut | Self::Malformed => true,
            Self::InvalidRequest
            | Self::Rejected
            | Self::RateLimited
            | Self::Stalled
            | Self::InBand
            | Self::EmptyTurn
            | Self::Canceled => false,
        }
    }

    /// Whether another model may do better.
    #[must_use]
    pub const fn helps_to_go_on(self) -> bool {
        match self {
            Self::Rejected
            | Self::RateLimited
            | Self::Transient
            | Self::Cut
            | Self::Stalled
            | Self::Malformed
            | Self::InBand
            | Self::EmptyTurn => true,
            Self::InvalidRequest | Self::Canceled => false,
        }
    }

    /// What it says about its endpoint's health.
    #[must_use]
    pub const fn health_effect(self) -> HealthEffect {
        match self {
            Self::RateLimited => HealthEffect::OpenAtOnce,
            Self::Transient
            | Self::Cut
            | Self::Stalled
            | Self::Malformed
            | Self::InBand
            | Self::EmptyTurn => HealthEffect::Failure,
            Self::InvalidRequest | Self::Rejected | Self::Canceled => HealthEffect::None,
        }
    }
}

/// How often and how patiently one model is tried within one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Repeats on the same model before the next one is asked.
    pub retries: u32,
    /// Delay between them.
    pub backoff: Backoff,
    /// An upstream that asks for a longer pause than this is not waited for.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(2)),
            longest_wait: Duration::from_secs(5),
        }
    }
}

/// One model of a route, as far as the walk needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it goes on from an answer that somebody else began.
    pub prefill: bool,
}

/// A failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub class: FailureClass,
    /// When the upstream asked to come back.
    pub retry_after: Option<Duration>,
}

/// What clients have seen of the open step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// The step's first event, if any content is visible; what a reset voids from.
    pub from_seq: Option<i64>,
    /// Bytes of visible text.
    pub text_bytes: usize,
    /// Whether something besides text is visible.
    pub beyond_text: bool,
    /// Whether a tool may have taken effect within the step.
    pub tool_effects: bool,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask this model; nobody sees that another was asked before.
    Ask {
        /// Its place in the route.
        candidate: usize,
        /// Which try at the step it is, from 1.
        attempt: i32,
        /// Wait so long first.
        delay: Duration,
    },
    /// Let this model go on from the visible text.
    Splice {
        /// Its place in the route.
        candidate: usize,
        /// Which try at the step it is.
        attempt: i32,
        /// Bytes of text that stay.
        kept_bytes: usize,
        /// Why.
        cause: ResetCause,
    },
    /// Void the step's events from `from_seq` on, then ask this model.
    Reset {
        /// Its place in the route.
        candidate: usize,
        /// Which try at the step it is.
        attempt: i32,
        /// First event that is void.
        from_seq: i64,
        /// Why.
        cause: ResetCause,
    },
    /// The route is at its end, or going on would be wrong.
    GiveUp {
        /// What the turn fails with: the last call's failure.
        primary: FailureClass,
    },
}

/// One failed attempt, for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Place in the route.
    pub candidate: usize,
    /// Which try at its step it was.
    pub attempt: i32,
    /// Why it failed.
    pub class: FailureClass,
}

/// A turn's way through its route.
#[derive(Debug, Clone)]
pub struct Walk {
    route: Vec<Candidate>,
    policy: RetryPolicy,
    at: usize,
    attempt: i32,
    /// Failed calls of `at` within this step.
    failed_here: u32,
    /// Why the open step is not what it was; told when its visible part is voided.
    cause: Option<ResetCause>,
    failures: Vec<FailedAttempt>,
}

impl Walk {
    /// A walk that stands at `at` (0 for a new turn; where its predecessor stood for one that was taken over).
    /// An empty route gives up at once.
    #[must_use]
    pub fn new(route: Vec<Candidate>, at: usize, policy: RetryPolicy) -> Self {
        Self { route, policy, at, attempt: 0, failed_here: 0, cause: None, failures: Vec::new() }
    }

    /// Where it stands in the route.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Every failure so far, oldest first.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        &self.failures
    }

    /// A new step begins, on the model that carried out the one before. Models left behind are not asked again
    /// within the turn.
    pub fn begin_step(&mut self) -> Next {
        self.attempt = 0;
        self.failed_here = 0;
        self.cause = None;
        self.ask_here(Shown::default())
    }

    /// The step that a lost worker had open is begun again, on the same model: it is not that model's failure.
    /// `attempts` is how many tries at it there were.
    pub fn take_over(&mut self, attempts: i32, shown: Shown) -> Next {
        self.attempt = attempts;
        self.failed_here = 0;
        self.cause = Some(ResetCause::Takeover);
        if shown.tool_effects {
            return self.give_up();
        }
        self.ask_here(shown)
    }

    /// The call failed. `draw` in 0..1 spreads the delay.
    pub fn failed(&mut self, failure: Failure, shown: Shown, draw: f64) -> Next {
        let Failure { class, retry_after } = failure;
        self.failures.push(FailedAttempt { candidate: self.at, attempt: self.attempt, class });
        self.failed_here = self.failed_here.saturating_add(1);
        self.cause = Some(ResetCause::Model(class));
        if shown.tool_effects || !class.helps_to_go_on() {
            return self.give_up();
        }
        let delay = self.policy.backoff.delay(self.failed_here, draw).max(retry_after.unwrap_or_default());
        if shown.from_seq.is_none()
            && class.helps_to_retry()
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

    /// The breaker of the model that was to come next is open: that call was never made, so it is no failure
    /// and the try at the step is still free.
    pub fn refused(&mut self, shown: Shown) -> Next {
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
        let primary = match (self.failures.last(), self.cause) {
            (Some(last), _) => last.class,
            // Its worker took the stream with it.
            (None, Some(ResetCause::Takeover)) => FailureClass::Cut,
            // Every breaker on the way is open.
            (None, _) => FailureClass::Transient,
        };
        Next::GiveUp { primary }
    }
}

#[cfg(test)]
mod tests;
