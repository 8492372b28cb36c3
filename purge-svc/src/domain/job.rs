//! The life of one erasure: `pending → frozen → inventoried → erasing → erased → verified → committed`.
//!
//! [`next`] is the only function that decides the next state of a job, and it is pure. Its callers send an
//! input only after *every* custodian has done the step that the input names. It guarantees:
//!
//! * Steps are done in order.
//! * Between `inventoried` and `erasing` lies the point of no return. Before it a job can be canceled
//!   (`thawed`) or wait for a hold; after it, neither is possible.
//! * Only a job that is `verified` is committed; a job that found data left goes back to `erasing`.
//! * `blocked` and `dead_lettered` keep the phase from which the job continues: a blocked job at its next
//!   attempt, a dead-lettered one after an operator has resolved its letters.
//!
//! It does not know which services are custodians. Delays come from [`super::schedule`].

use chrono::{DateTime, Utc};
use svc_core::{
    id::{AccountId, PurgeId, SessionId},
    subject::{Subject, SubjectHash, SubjectKind},
};

use super::{custodian::Custodian, trigger::Trigger};

mod machine;
#[cfg(test)]
mod tests;

pub use self::machine::{Input, Refused, next};

/// Progress of a job: the last step that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The job is accepted.
    Pending,
    /// Every custodian has stopped the subject's writers.
    Frozen,
    /// Every external object is on the job's own list.
    Inventoried,
    /// The point of no return is passed.
    Erasing,
    /// Every custodian says that it deleted everything.
    Erased,
    /// Every custodian has read back zero.
    Verified,
}

impl Phase {
    /// Every phase in order.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Frozen, Self::Inventoried, Self::Erasing, Self::Erased, Self::Verified];

    /// Returns whether the job can still be canceled without loss.
    pub const fn is_cancelable(self) -> bool {
        match self {
            Self::Pending | Self::Frozen | Self::Inventoried => true,
            Self::Erasing | Self::Erased | Self::Verified => false,
        }
    }
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// A step is running, or waits for its next attempt.
    Working(Phase),
    /// The job waits for its next attempt: a hold is in force, too many attempts failed (the job is parked),
    /// or a custodian had data left. A worker then continues it from this phase.
    Blocked(Phase),
    /// The job waits for an operator: an object cannot be deleted. It continues from [`Phase::Erasing`].
    DeadLettered,
    /// Final: the receipt is written.
    Committed,
    /// Final: canceled before the point of no return; nothing was erased.
    Thawed,
}

impl State {
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

    /// Returns the phase of the job; `None` once it is final.
    pub const fn phase(self) -> Option<Phase> {
        match self {
            Self::Working(phase) | Self::Blocked(phase) => Some(phase),
            Self::DeadLettered => Some(Phase::Erasing),
            Self::Committed | Self::Thawed => None,
        }
    }

    /// Returns the state without a phase.
    pub const fn label(self) -> StateLabel {
        match self {
            Self::Working(Phase::Pending) => StateLabel::Pending,
            Self::Working(Phase::Frozen) => StateLabel::Frozen,
            Self::Working(Phase::Inventoried) => StateLabel::Inventoried,
            Self::Working(Phase::Erasing) => StateLabel::Erasing,
            Self::Working(Phase::Erased) => StateLabel::Erased,
            Self::Working(Phase::Verified) => StateLabel::Verified,
            Self::Blocked(_) => StateLabel::Blocked,
            Self::DeadLettered => StateLabel::DeadLettered,
            Self::Committed => StateLabel::Committed,
            Self::Thawed => StateLabel::Thawed,
        }
    }

    /// Returns the phase from which a worker continues; `None` if the job is final or waits for an operator.
    pub const fn workable(self) -> Option<Phase> {
        match self {
            Self::Working(phase) | Self::Blocked(phase) => Some(phase),
            Self::DeadLettered | Self::Committed | Self::Thawed => None,
        }
    }
}

/// A state without the phase of a blocked job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateLabel {
    Pending,
    Frozen,
    Inventoried,
    Erasing,
    Erased,
    Verified,
    Blocked,
    DeadLettered,
    Committed,
    Thawed,
}

/// Selects jobs of an account for a list; `None` selects all.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobFilter {
    pub state: Option<StateLabel>,
    pub session: Option<SessionId>,
}

/// Reason for which a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A custodian does not answer, or says that it is temporarily unable to.
    CustodianUnavailable,
    /// A custodian refused a step.
    CustodianRefused,
    /// A custodian does not keep to the contract: it is another service, has another version of the contract,
    /// lacks an RPC or a field of an answer, does not declare a required kind, or leaves a declared kind out
    /// of its answer to Verify.
    ContractMismatch,
    /// A custodian named a kind that it had not declared.
    KindUndeclared,
    /// A hold is on the subject.
    Held,
    /// An object could not be deleted yet.
    ItemsTransient,
    /// An object cannot be deleted.
    ItemsPermanent,
    /// A custodian found data left after every custodian had answered that it deleted everything.
    Residue,
    /// A fault of purge-svc itself.
    Internal,
}

impl Cause {
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

    /// Name on the wire and in the database.
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

    /// Finds the cause by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

/// The part of a job that the state machine reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub state: State,
    /// Reason for which the job waits, if it does.
    pub cause: Option<Cause>,
    /// Failures in a row of the present step.
    pub attempts: u32,
    /// Number of read-backs that found residue.
    pub rounds: u32,
    /// Whether the tenant canceled the job. A worker then thaws it at every custodian.
    pub canceling: bool,
    /// Workers claim the job from this time on.
    pub next_attempt_at: DateTime<Utc>,
    /// Time of the receipt.
    pub committed_at: Option<DateTime<Utc>>,
    /// Number of changes of the job. A change is written only if the stored number is still the one that was
    /// read.
    pub generation: i64,
}

impl Record {
    /// Builds a new job, due at `now`.
    pub const fn accepted(now: DateTime<Utc>) -> Self {
        Self {
            state: State::Working(Phase::Pending),
            cause: None,
            attempts: 0,
            rounds: 0,
            canceling: false,
            next_attempt_at: now,
            committed_at: None,
            generation: 1,
        }
    }
}

/// One erasure.
///
/// A committed job keeps a hash instead of its subject. It keeps the account, so that the tenant finds it by
/// id, until the account is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub purge_id: PurgeId,
    /// The tenant; `None` once its account is erased.
    pub account: Option<AccountId>,
    pub kind: SubjectKind,
    /// `None` once the subject is erased.
    pub subject: Option<Subject>,
    /// Hash of the subject, which stays.
    pub subject_hash: SubjectHash,
    pub trigger: Trigger,
    /// The principal that asked; `None` once the account is erased.
    pub requested_by: Option<String>,
    pub record: Record,
    /// The custodian that the job waits for.
    pub waits_for: Option<Custodian>,
    /// Trace of the request that made the job.
    pub cause_traceparent: Option<String>,
    /// Trace of the job itself, once a worker has claimed it.
    pub traceparent: Option<String>,
    pub created_at: DateTime<Utc>,
    /// Number of claims of the subject's jobs.
    pub epoch: i64,
}
