//! A turn: one user input until its final answer, and its state machine.
//!
//! [`next`] defines all transitions of the status. It is pure: it takes a turn's row, an input and the time,
//! and returns the changed row. It does not read the lease columns: an expired lease lets another worker
//! claim the turn, which raises the epoch; a write with an older epoch is refused. `store::claims` claims
//! many turns in one statement, which must write the same as [`next`] returns for [`Input::Claim`].

use chrono::{DateTime, Utc};
use svc_core::{
    id::{AccountId, SessionId, TurnId},
    subject::Subject,
};

use super::failure::FailureClass;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub id: TurnId,
    pub account_id: AccountId,
    pub session_id: SessionId,
    /// Its place in the session, from 1.
    pub ordinal: i64,
    pub standing: Standing,
    /// Why it failed or was canceled; empty otherwise.
    pub cause: String,
    /// Trace context of the request that created it.
    pub traceparent: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Sequence number of its newest event; 0 before the first.
    pub last_seq: i64,
}

impl Turn {
    /// Returns the session as the subject of custody.
    pub(crate) const fn subject(&self) -> Subject {
        Subject::Session { account: self.account_id, session: self.session_id }
    }
}

/// Status of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnStatus {
    /// Accepted, waiting for a worker.
    Queued,
    /// A worker holds its lease; or the lease was released or has expired, and another worker claims the turn
    /// next.
    Running,
    /// Final: the answer is stored.
    Completed,
    /// Final: it ended with an error.
    Failed,
    /// Final: it was canceled.
    Canceled,
}

impl TurnStatus {
    /// Whether no other status follows.
    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }
}

/// Why a turn failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailCause {
    /// The last model that was asked failed.
    Model(FailureClass),
    /// It was not final at its deadline.
    DeadlineExceeded,
    /// More claims without progress than the maximum were made.
    Poisoned,
    /// It needed more steps than a turn may have.
    StepLimit,
    /// Its route is not in the configuration.
    RouteUnknown,
    /// A defect of Steward.
    Internal,
}

impl FailCause {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Model(class) => class.reason(),
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Poisoned => "POISONED",
            Self::StepLimit => "STEP_LIMIT",
            Self::RouteUnknown => "ROUTE_UNKNOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// Text that a user may read.
    pub(crate) const fn public_message(self) -> &'static str {
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
pub(crate) enum CancelCause {
    /// A caller canceled it.
    User,
    /// A newer input of its session replaced it.
    Interrupted,
    /// Its session is being erased.
    Erased,
}

impl CancelCause {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Interrupted => "INTERRUPTED",
            Self::Erased => "ERASED",
        }
    }
}

/// How a turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Completed,
    Failed(FailCause),
    Canceled(CancelCause),
}

impl Ending {
    /// Returns the status that the ending leads to.
    pub(crate) const fn status(self) -> TurnStatus {
        match self {
            Self::Completed => TurnStatus::Completed,
            Self::Failed(_) => TurnStatus::Failed,
            Self::Canceled(_) => TurnStatus::Canceled,
        }
    }

    /// Stable reason for clients; empty if the turn completed.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Completed => "",
            Self::Failed(cause) => cause.reason(),
            Self::Canceled(cause) => cause.reason(),
        }
    }
}

/// The part of a turn's row that the state machine reads and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub status: TurnStatus,
    /// Fencing token: rises with every claim and every ending. A worker may write only with the present
    /// epoch.
    pub epoch: i64,
    /// Version of the row.
    pub generation: i64,
    /// Number of claims so far.
    pub attempts: i32,
    /// Claims since the turn last made progress.
    pub no_progress_claims: i32,
    pub started_at: Option<DateTime<Utc>>,
    /// When the turn became final.
    pub ended_at: Option<DateTime<Utc>>,
    /// When the turn fails if it is not final.
    pub deadline_at: DateTime<Utc>,
}

/// An input of the state machine.
#[cfg_attr(not(test), expect(dead_code, reason = "set-wise SQL makes the other transitions"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A worker claims it: for the first time, or after the last worker's lease was released or has expired.
    Claim,
    /// Its worker committed a step or a tool's result.
    Advance,
    /// Its worker stops and hands the turn over; another worker may claim it at once.
    Release,
    /// Its worker ends it.
    End(Ending),
    /// A caller, a newer input or an erasure ends it, whether it runs or not.
    Cancel(CancelCause),
}

/// The status does not allow the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a turn that is {from:?} does not take {input:?}")]
pub(crate) struct InvalidTransition {
    pub from: TurnStatus,
    pub input: Input,
}

/// Returns the row after `input`.
///
/// # Errors
/// [`InvalidTransition`] if the status does not allow the input; a final turn allows none.
pub(crate) fn next(
    standing: &Standing,
    input: Input,
    now: DateTime<Utc>,
) -> Result<Standing, InvalidTransition> {
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
            no_progress_claims: standing.no_progress_claims + 1,
            started_at: standing.started_at.or(Some(now)),
            ..changed
        }),
        (Running, Input::Advance) => Ok(Standing { no_progress_claims: 0, ..changed }),
        // The claim of the worker that hands the turn over is no longer counted: repeated deployments must
        // not fail a long turn as POISONED.
        (Running, Input::Release) => {
            Ok(Standing { no_progress_claims: (standing.no_progress_claims - 1).max(0), ..changed })
        }
        (Running, Input::End(ending)) => Ok(ended(ending)),
        (Queued | Running, Input::Cancel(cause)) => Ok(ended(Ending::Canceled(cause))),
        (Queued, Input::Advance | Input::Release | Input::End(_)) => refused,
    }
}

/// Returns why a turn that was just claimed must fail instead of running; `None` if it may run.
pub(crate) fn refuse_claim(
    standing: &Standing,
    max_no_progress: i32,
    now: DateTime<Utc>,
) -> Option<FailCause> {
    if standing.deadline_at <= now {
        Some(FailCause::DeadlineExceeded)
    } else if standing.no_progress_claims > max_no_progress {
        Some(FailCause::Poisoned)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
