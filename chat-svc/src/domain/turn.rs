//! A turn's machine: one user input on its way to one final answer.
//!
//! [`next`] is the only place that says which status follows which. It is pure: what a turn's row holds, an
//! input and the time come in, what the row becomes goes out. The lease columns are not part of it (time only
//! permits a taking; the epoch decides), and the set-wise claim of many turns at once (`store::claims`) writes
//! what [`next`] says for [`Input::Claim`], which a test holds it to.

use chrono::{DateTime, Utc};

use super::failover::FailureClass;

/// Where a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnStatus {
    /// Accepted, waiting for a worker.
    Queued,
    /// A worker holds its lease, or held it and is to be followed by another.
    Running,
    /// Final: the answer is stored.
    Completed,
    /// Final: it ended with an error.
    Failed,
    /// Final: it was canceled.
    Canceled,
}

impl TurnStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Canceled];

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }
}

/// Why a turn failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailCause {
    /// The last model of its route failed, for this reason.
    Model(FailureClass),
    /// It was not final at its deadline.
    DeadlineExceeded,
    /// Workers took it again and again and none got it any further.
    Poisoned,
    /// It asked for more steps than a turn has.
    StepLimit,
    /// Its route is not configured (any more).
    RouteUnknown,
    /// A defect of ours.
    Internal,
}

impl FailCause {
    /// Stable reason, UPPER_SNAKE.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Model(class) => class.reason(),
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Poisoned => "POISONED",
            Self::StepLimit => "STEP_LIMIT",
            Self::RouteUnknown => "ROUTE_UNKNOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// What a user may read about it.
    #[must_use]
    pub const fn public_message(self) -> &'static str {
        match self {
            Self::Model(class) => class.public_message(),
            Self::DeadlineExceeded => "the turn did not end before its deadline",
            Self::Poisoned => "every worker that ran the turn ended before it got any further",
            Self::StepLimit => "the turn took more steps than a turn may take",
            Self::RouteUnknown => "the session's route is not configured",
            Self::Internal => "the turn could not be run",
        }
    }
}

/// Why a turn was canceled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelCause {
    /// Its user asked for it.
    User,
    /// A newer input of its session took its place.
    Interrupted,
    /// Its session is being erased.
    Erased,
}

impl CancelCause {
    /// Stable reason, UPPER_SNAKE.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Interrupted => "INTERRUPTED",
            Self::Erased => "ERASED",
        }
    }
}

/// How a turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With an answer.
    Completed,
    /// With an error.
    Failed(FailCause),
    /// Because somebody wished so.
    Canceled(CancelCause),
}

impl Ending {
    /// The status it leads to.
    #[must_use]
    pub const fn status(self) -> TurnStatus {
        match self {
            Self::Completed => TurnStatus::Completed,
            Self::Failed(_) => TurnStatus::Failed,
            Self::Canceled(_) => TurnStatus::Canceled,
        }
    }

    /// Stable reason; empty for an answer.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Completed => "",
            Self::Failed(cause) => cause.reason(),
            Self::Canceled(cause) => cause.reason(),
        }
    }
}

/// What a turn's row holds, as far as the machine is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub status: TurnStatus,
    /// Rises with every taking and every ending: who writes with a lower one is fenced out.
    pub epoch: i64,
    /// Version of the row.
    pub generation: i64,
    /// Workers that have run it.
    pub attempts: i32,
    /// Claims since it last got further.
    pub barren_claims: i32,
    /// When it first ran.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub ended_at: Option<DateTime<Utc>>,
    /// Instant at which it fails.
    pub deadline_at: DateTime<Utc>,
}

/// What may happen to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A worker takes it: for the first time, or after another's lease ran out.
    Claim,
    /// Its worker committed a step or a tool's result.
    Advance,
    /// Its worker hands it over: it stops, the turn does not.
    Release,
    /// Its worker ends it.
    End(Ending),
    /// Somebody else ends it, whoever runs it.
    Cancel(CancelCause),
}

/// An input that the status does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a turn that is {from:?} does not take {input:?}")]
pub struct InvalidTransition {
    /// Where the turn stands.
    pub from: TurnStatus,
    /// What was to happen.
    pub input: Input,
}

/// What the row becomes.
///
/// # Errors
/// [`InvalidTransition`] if the status does not allow the input; a final turn allows none.
pub fn next(standing: &Standing, input: Input, now: DateTime<Utc>) -> Result<Standing, InvalidTransition> {
    use TurnStatus::{Canceled, Completed, Failed, Queued, Running};
    let refused = Err(InvalidTransition { from: standing.status, input });
    let changed = Standing { generation: standing.generation + 1, ..*standing };
    let ended = |ending: Ending| Standing {
        status: ending.status(),
        epoch: standing.epoch + 1,
        ended_at: Some(now),
        ..changed
    };
    match (standing.status, input) {
        (Completed | Failed | Canceled, _) => refused,
        (Queued | Running, Input::Claim) => Ok(Standing {
            status: Running,
            epoch: standing.epoch + 1,
            attempts: standing.attempts + 1,
            barren_claims: standing.barren_claims + 1,
            started_at: standing.started_at.or(Some(now)),
            ..changed
        }),
        (Running, Input::Advance) => Ok(Standing { barren_claims: 0, ..changed }),
        // Handing over is no failure to get further: deploys must not poison a long turn.
        (Running, Input::Release) => {
            Ok(Standing { barren_claims: (standing.barren_claims - 1).max(0), ..changed })
        }
        (Running, Input::End(ending)) => Ok(ended(ending)),
        (Queued | Running, Input::Cancel(cause)) => Ok(ended(Ending::Canceled(cause))),
        (Queued, Input::Advance | Input::Release | Input::End(_)) => refused,
    }
}

/// Whether a turn that was just claimed should end instead of running, and why.
#[must_use]
pub fn refuse_claim(standing: &Standing, max_barren_claims: i32, now: DateTime<Utc>) -> Option<FailCause> {
    if standing.deadline_at <= now {
        Some(FailCause::DeadlineExceeded)
    } else if standing.barren_claims > max_barren_claims {
        Some(FailCause::Poisoned)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
