//! The state machine of a job: its inputs, and the transition of each.

use chrono::{DateTime, Utc};

use super::{Cause, Phase, Record, State};
use crate::domain::schedule::Retry;

/// An event that may move a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Every custodian has stopped the subject's writers.
    Frozen,
    /// Every external object is on the job's own list.
    Inventoried,
    /// No hold was in force on the subject or its account when the worker looked: the job passes the point of
    /// no return.
    Cleared,
    /// A hold is in force until this time.
    Held(DateTime<Utc>),
    /// Every custodian says that it deleted everything.
    Erased,
    /// A custodian refused to delete an object; the dead letter is written.
    ItemsRefused,
    /// Every custodian read back zero.
    Clean,
    /// A custodian has data left; the next attempt to erase is due at this time.
    Residue(DateTime<Utc>),
    /// The receipt is written in the same transaction.
    Receipted,
    /// The present step failed.
    Failed { cause: Cause, retry: Retry },
    /// An operator resolved the job's last dead letter.
    LettersResolved,
    /// The tenant canceled the job.
    Canceled,
    /// Every custodian has thawed.
    Thawed,
}

/// An irreversible act; its audit row is written with the transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The point of no return is passed.
    ErasureStarted,
    /// The subject is erased and receipted.
    ErasureCommitted,
}

impl Act {
    /// Name in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErasureStarted => "purge.erasure_started",
            Self::ErasureCommitted => "purge.erasure_committed",
        }
    }
}

/// Result of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Transition {
    pub record: Record,
    /// The irreversible act that the transition commits, if any.
    pub act: Option<Act>,
}

/// Reason for which an input is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job is final.
    #[error("job is final")]
    Final,
    /// The point of no return is passed.
    #[error("erasure has started")]
    ErasureStarted,
    /// The tenant canceled the job: it can only be thawed.
    #[error("job is being canceled")]
    Canceling,
    /// The input does not follow from the job's state.
    #[error("{input:?} does not follow {state:?}")]
    OutOfOrder { state: State, input: Input },
}

/// Returns the transition of `record` by `input` at `now`.
///
/// # Errors
/// [`Refused`] if the input is not possible in this state.
pub fn next(record: &Record, input: Input, now: DateTime<Utc>) -> Result<Transition, Refused> {
    let out_of_order = Refused::OutOfOrder { state: record.state, input };
    let phase = match record.state {
        State::Committed | State::Thawed => return Err(Refused::Final),
        State::DeadLettered => return after_dead_letters(record, input, now),
        State::Working(phase) | State::Blocked(phase) => phase,
    };
    match (input, phase) {
        (Input::Canceled, phase) if !phase.is_cancelable() => Err(Refused::ErasureStarted),
        (Input::Canceled, phase) => {
            let record = Record { canceling: true, ..advance(record, phase, now) };
            Ok(plain(record))
        }
        (Input::Thawed, _) if record.canceling => {
            Ok(plain(Record { state: State::Thawed, ..advance(record, phase, now) }))
        }
        (Input::Failed { cause, retry }, phase) => Ok(plain(wait(record, phase, cause, retry))),
        (
            Input::Frozen | Input::Inventoried | Input::Cleared | Input::Held(_),
            Phase::Pending | Phase::Frozen | Phase::Inventoried,
        ) if record.canceling => Err(Refused::Canceling),

        (Input::Frozen, Phase::Pending) => Ok(plain(advance(record, Phase::Frozen, now))),
        (Input::Inventoried, Phase::Frozen) => Ok(plain(advance(record, Phase::Inventoried, now))),
        (Input::Held(until), phase @ (Phase::Pending | Phase::Inventoried)) => Ok(plain(Record {
            state: State::Blocked(phase),
            cause: Some(Cause::Held),
            next_attempt_at: until,
            generation: record.generation + 1,
            ..*record
        })),
        (Input::Cleared, Phase::Inventoried) => {
            Ok(Transition { record: advance(record, Phase::Erasing, now), act: Some(Act::ErasureStarted) })
        }
        (Input::Erased, Phase::Erasing) => Ok(plain(advance(record, Phase::Erased, now))),
        (Input::ItemsRefused, Phase::Erasing) => Ok(plain(Record {
            state: State::DeadLettered,
            cause: Some(Cause::ItemsPermanent),
            ..advance(record, phase, now)
        })),
        (Input::Clean, Phase::Erased) => Ok(plain(advance(record, Phase::Verified, now))),
        (Input::Residue(retry_at), Phase::Erased) => Ok(plain(Record {
            state: State::Blocked(Phase::Erasing),
            cause: Some(Cause::Residue),
            rounds: record.rounds.saturating_add(1),
            next_attempt_at: retry_at,
            ..advance(record, Phase::Erasing, now)
        })),
        (Input::Receipted, Phase::Verified) => Ok(Transition {
            record: Record {
                state: State::Committed,
                committed_at: Some(now),
                ..advance(record, phase, now)
            },
            act: Some(Act::ErasureCommitted),
        }),

        (
            Input::Frozen
            | Input::Inventoried
            | Input::Cleared
            | Input::Held(_)
            | Input::Erased
            | Input::ItemsRefused
            | Input::Clean
            | Input::Residue(_)
            | Input::Receipted
            | Input::LettersResolved
            | Input::Thawed,
            Phase::Pending
            | Phase::Frozen
            | Phase::Inventoried
            | Phase::Erasing
            | Phase::Erased
            | Phase::Verified,
        ) => Err(out_of_order),
    }
}

/// Transitions of a dead-lettered job: it continues only when its letters are resolved.
fn after_dead_letters(record: &Record, input: Input, now: DateTime<Utc>) -> Result<Transition, Refused> {
    match input {
        Input::LettersResolved => Ok(plain(advance(record, Phase::Erasing, now))),
        Input::Canceled => Err(Refused::ErasureStarted),
        Input::Frozen
        | Input::Inventoried
        | Input::Cleared
        | Input::Held(_)
        | Input::Erased
        | Input::ItemsRefused
        | Input::Clean
        | Input::Residue(_)
        | Input::Receipted
        | Input::Failed { .. }
        | Input::Thawed => Err(Refused::OutOfOrder { state: record.state, input }),
    }
}

const fn plain(record: Record) -> Transition {
    Transition { record, act: None }
}

/// Moves to `phase` and resets attempts and cause.
const fn advance(record: &Record, phase: Phase, now: DateTime<Utc>) -> Record {
    Record {
        state: State::Working(phase),
        cause: None,
        attempts: 0,
        next_attempt_at: now,
        generation: record.generation + 1,
        ..*record
    }
}

/// Stays in `phase` and counts one more failure of the present step.
const fn wait(record: &Record, phase: Phase, cause: Cause, retry: Retry) -> Record {
    Record {
        state: if retry.parked { State::Blocked(phase) } else { State::Working(phase) },
        cause: Some(cause),
        attempts: record.attempts.saturating_add(1),
        next_attempt_at: retry.at,
        generation: record.generation + 1,
        ..*record
    }
}
