//! The life of one erasure: `pending → frozen → inventoried → erasing → erased → verified → committed`.
//!
//! [`next`] is the only function that says where a job goes, and it is pure. What it guarantees:
//!
//! * Steps are done in order, and each only after the one before it was done by *every* owner of data.
//! * Between `inventoried` and `erasing` lies the point of no return: before it a job can be given up (`thawed`)
//!   or wait for a hold; after it neither can stop it any more.
//! * A job is committed from `verified` alone, and residue leads back to `erasing`.
//! * `blocked` and `dead_lettered` remember where to go on. A blocked job goes on by itself, a dead-lettered
//!   one when an operator has settled what could not be deleted.
//!
//! It does not know who the owners are, nor how long to wait: [`super::schedule`] says that.

use chrono::{DateTime, Utc};
use svc_core::id::{AccountId, PurgeId};

use super::{
    custodian::Custodian,
    schedule::Again,
    subject::{Subject, SubjectHash, SubjectKind, Trigger},
};

#[cfg(test)]
mod tests;

/// How far a job is: the last step that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Accepted.
    Pending,
    /// Every owner has stopped its writers.
    Frozen,
    /// Every external object is on the job's own list.
    Inventoried,
    /// Past the point of no return.
    Erasing,
    /// Every owner says that it deleted all.
    Erased,
    /// Every owner has read back zero.
    Verified,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Frozen, Self::Inventoried, Self::Erasing, Self::Erased, Self::Verified];

    /// Whether the job can still be given up with nothing lost.
    #[must_use]
    pub const fn can_be_given_up(self) -> bool {
        match self {
            Self::Pending | Self::Frozen | Self::Inventoried => true,
            Self::Erasing | Self::Erased | Self::Verified => false,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// On its way, perhaps waiting for its next attempt.
    Working(Phase),
    /// Waits for something that its cause names, and goes on from this phase by itself.
    Blocked(Phase),
    /// Waits for an operator: something cannot be deleted. Goes on from [`Phase::Erasing`].
    DeadLettered,
    /// Final: the receipt is written.
    Committed,
    /// Final: given up before the point of no return; nothing was erased.
    Thawed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 15] = [
        Self::Working(Phase::Pending),
        Self::Working(Phase::Frozen),
        Self::Working(Phase::Inventoried),
        Self::Working(Phase::Erasing),
        Self::Working(Phase::Erased),
        Self::Working(Phase::Verified),
        Self::Blocked(Phase::Pending),
        Self::Blocked(Phase::Frozen),
        Self::Blocked(Phase::Inventoried),
        Self::Blocked(Phase::Erasing),
        Self::Blocked(Phase::Erased),
        Self::Blocked(Phase::Verified),
        Self::DeadLettered,
        Self::Committed,
        Self::Thawed,
    ];

    /// How far the job is; `None` once it is final.
    #[must_use]
    pub const fn phase(self) -> Option<Phase> {
        match self {
            Self::Working(phase) | Self::Blocked(phase) => Some(phase),
            Self::DeadLettered => Some(Phase::Erasing),
            Self::Committed | Self::Thawed => None,
        }
    }

    /// The phase from which a worker goes on; `None` while nobody but an operator, or nobody at all, can.
    #[must_use]
    pub const fn workable(self) -> Option<Phase> {
        match self {
            Self::Working(phase) | Self::Blocked(phase) => Some(phase),
            Self::DeadLettered | Self::Committed | Self::Thawed => None,
        }
    }
}

/// Why a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// An owner of data does not answer, or says that it cannot now.
    CustodianUnavailable,
    /// An owner of data refused a step.
    CustodianRefused,
    /// An owner speaks another contract, or does not hold what it should.
    ContractMismatch,
    /// An owner named a kind of resource that it had not declared, or left out one that it had.
    KindUndeclared,
    /// A hold is on the subject.
    Held,
    /// Something could not be deleted yet.
    ItemsTransient,
    /// Something cannot be deleted.
    ItemsPermanent,
    /// An owner found something left after it had deleted all.
    Residue,
    /// Something went wrong in purge-svc itself.
    Internal,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 9] = [
        Self::CustodianUnavailable,
        Self::CustodianRefused,
        Self::ContractMismatch,
        Self::KindUndeclared,
        Self::Held,
        Self::ItemsTransient,
        Self::ItemsPermanent,
        Self::Residue,
        Self::Internal,
    ];

    /// Its name, on the wire and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CustodianUnavailable => "CUSTODIAN_UNAVAILABLE",
            Self::CustodianRefused => "CUSTODIAN_REFUSED",
            Self::ContractMismatch => "CONTRACT_MISMATCH",
            Self::KindUndeclared => "KIND_UNDECLARED",
            Self::Held => "HELD",
            Self::ItemsTransient => "ITEMS_TRANSIENT",
            Self::ItemsPermanent => "ITEMS_PERMANENT",
            Self::Residue => "RESIDUE",
            Self::Internal => "INTERNAL",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

/// What the machine knows of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Why it waits, if it does.
    pub cause: Option<Cause>,
    /// Failures in a row of the present step.
    pub attempts: u32,
    /// Read-backs that found something.
    pub rounds: u32,
    /// Whether its owner gave it up; it thaws as soon as every owner of data has let go.
    pub giving_up: bool,
    /// No worker takes it before.
    pub next_attempt_at: DateTime<Utc>,
    /// When its receipt was written.
    pub committed_at: Option<DateTime<Utc>>,
    /// Grows with every change.
    pub generation: i64,
}

impl Record {
    /// A job that was just accepted.
    #[must_use]
    pub const fn accepted(now: DateTime<Utc>) -> Self {
        Self {
            state: State::Working(Phase::Pending),
            cause: None,
            attempts: 0,
            rounds: 0,
            giving_up: false,
            next_attempt_at: now,
            committed_at: None,
            generation: 1,
        }
    }
}

/// One erasure.
///
/// Once committed it names nobody any more: its subject is a hash. Its owner still finds it by its id, because
/// the account stays on it until the account itself is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub purge_id: PurgeId,
    /// Whose job it is; `None` once the account is erased.
    pub account: Option<AccountId>,
    /// What kind of subject it erases.
    pub kind: SubjectKind,
    /// Whom; `None` once erased.
    pub subject: Option<Subject>,
    /// What is left of the subject's id.
    pub subject_hash: SubjectHash,
    /// Why.
    pub trigger: Trigger,
    /// The principal that asked; `None` once the account is erased.
    pub requested_by: Option<String>,
    /// Where it stands.
    pub record: Record,
    /// Whom it waits for.
    pub waits_for: Option<Custodian>,
    /// Trace of the request that made it.
    pub cause_traceparent: Option<String>,
    /// Its own trace, once a worker has taken it.
    pub traceparent: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// How often a worker took a job of this subject.
    pub epoch: i64,
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Every owner has stopped its writers.
    Frozen,
    /// Every external object is on the job's list.
    Inventoried,
    /// No hold stands, and from now on none can be set: the point of no return.
    Cleared,
    /// A hold stands. Look again at this time.
    Held(DateTime<Utc>),
    /// Every owner says that it deleted all.
    Erased,
    /// Something cannot be deleted, and is on the list of dead letters.
    ItemsRefused,
    /// Every owner read back zero.
    Clean,
    /// An owner found something left. Erase again at this time.
    Residue(DateTime<Utc>),
    /// The receipt is being written.
    Receipted,
    /// The present step failed.
    Failed {
        /// Why.
        cause: Cause,
        /// When to try again.
        again: Again,
    },
    /// An operator settled everything that could not be deleted.
    Settled,
    /// The subject's owner does not want it erased any more.
    GivenUp,
    /// Every owner of data has let go.
    Thawed,
}

/// An irreversible act; its audit row is written with the transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The point of no return was passed.
    ErasureStarted,
    /// The subject is gone, and that is receipted.
    ErasureCommitted,
}

impl Act {
    /// Its name in the audit log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ErasureStarted => "purge.erasure_started",
            Self::ErasureCommitted => "purge.erasure_committed",
        }
    }
}

/// Where a job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Transition {
    /// What it becomes.
    pub record: Record,
    /// The act that this commits, if it is irreversible.
    pub act: Option<Act>,
}

/// Why something cannot happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is over.
    #[error("job is final")]
    Final,
    /// The point of no return was passed.
    #[error("erasure has started")]
    ErasureStarted,
    /// Its owner gave it up: it only thaws.
    #[error("job is being given up")]
    GivingUp,
    /// It does not follow from where the job stands.
    #[error("{input:?} does not follow {state:?}")]
    OutOfOrder {
        /// Where it stands.
        state: State,
        /// What was to happen.
        input: Input,
    },
}

/// Where `record` goes on `input`, at `now`.
///
/// # Errors
/// [`Refused`] if that cannot happen to it.
pub fn next(record: &Record, input: Input, now: DateTime<Utc>) -> Result<Transition, Refused> {
    let out_of_order = Refused::OutOfOrder { state: record.state, input };
    let phase = match record.state {
        State::Committed | State::Thawed => return Err(Refused::Final),
        State::DeadLettered => {
            return match input {
                Input::Settled => Ok(plain(advance(record, Phase::Erasing, now))),
                Input::GivenUp => Err(Refused::ErasureStarted),
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
                | Input::Thawed => Err(out_of_order),
            };
        }
        State::Working(phase) | State::Blocked(phase) => phase,
    };
    match (input, phase) {
        (Input::GivenUp, phase) if !phase.can_be_given_up() => Err(Refused::ErasureStarted),
        (Input::GivenUp, phase) => {
            let record = Record { giving_up: true, ..advance(record, phase, now) };
            Ok(plain(record))
        }
        (Input::Thawed, _) if record.giving_up => {
            Ok(plain(Record { state: State::Thawed, ..advance(record, phase, now) }))
        }
        (Input::Failed { cause, again }, phase) => Ok(plain(wait(record, phase, cause, again))),
        (
            Input::Frozen | Input::Inventoried | Input::Cleared | Input::Held(_),
            Phase::Pending | Phase::Frozen | Phase::Inventoried,
        ) if record.giving_up => Err(Refused::GivingUp),

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
        (Input::Residue(again), Phase::Erased) => Ok(plain(Record {
            state: State::Blocked(Phase::Erasing),
            cause: Some(Cause::Residue),
            rounds: record.rounds.saturating_add(1),
            next_attempt_at: again,
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
            | Input::Settled
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

const fn plain(record: Record) -> Transition {
    Transition { record, act: None }
}

/// On to `phase`, with a fresh count of attempts and nothing to wait for.
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

/// Not now: one more failure of the present step.
const fn wait(record: &Record, phase: Phase, cause: Cause, again: Again) -> Record {
    Record {
        state: if again.parked { State::Blocked(phase) } else { State::Working(phase) },
        cause: Some(cause),
        attempts: record.attempts.saturating_add(1),
        next_attempt_at: again.at,
        generation: record.generation + 1,
        ..*record
    }
}
