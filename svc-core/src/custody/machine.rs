//! The state machine of a subject's custody, without I/O: which step is allowed in which state.

use crate::{
    id::PurgeId,
    subject::{CustodyState as State, Subject},
};

/// Kind of a step of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    Freeze,
    /// Admit the subject's writers again.
    Thaw,
    /// List the objects outside Postgres.
    Inventory,
    Erase,
    Verify,
    /// Delete the subject's own row; the custody row stays.
    Commit,
}

impl StepKind {
    pub const ALL: [Self; 6] =
        [Self::Freeze, Self::Thaw, Self::Inventory, Self::Erase, Self::Verify, Self::Commit];

    /// Name of the step in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Inventory => "inventory",
            Self::Erase => "erase",
            Self::Verify => "verify",
            Self::Commit => "commit",
        }
    }

    /// Returns the step with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One step of one purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub purge_id: PurgeId,
    /// Epoch of purge-svc's claim on the purge, at least 1. Each later claim on a purge of the same subject
    /// has a higher one.
    pub epoch: i64,
    pub subject: Subject,
    pub kind: StepKind,
}

/// Custody of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// State, which determines whether the subject may be written.
    pub state: State,
    pub epoch: i64,
    /// The purge that last changed this record; `None` before the first one.
    pub purge_id: Option<PurgeId>,
}

/// A step that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A step with a higher epoch came before.
    #[error("epoch is lower than {seen}, which was seen already")]
    StaleEpoch { seen: i64 },
    /// An epoch is at least 1.
    #[error("epoch must be at least 1")]
    NoEpoch,
    /// Another purge has the subject, and this step may not take it over.
    #[error("another purge has this subject")]
    OtherPurge,
    /// The purge began with another subject.
    #[error("this purge is of another subject")]
    OtherSubject,
    /// The purge was canceled.
    #[error("this purge was canceled")]
    Thawed,
    /// The subject must be frozen first.
    #[error("subject is not frozen")]
    NotFrozen,
    /// `Erase` must begin first.
    #[error("subject is not erased")]
    NotErased,
    /// A `Verify` without residue must be answered first.
    #[error("erasure is not verified")]
    NotVerified,
    /// The purge can no longer be canceled.
    #[error("erasure has started")]
    ErasureStarted,
}

impl Refused {
    pub const fn reason(self) -> &'static str {
        match self {
            Self::StaleEpoch { .. } => "STALE_EPOCH",
            Self::NoEpoch => "INVALID_EPOCH",
            Self::OtherPurge => "OTHER_PURGE",
            Self::OtherSubject => "OTHER_SUBJECT",
            Self::Thawed => "PURGE_THAWED",
            Self::NotFrozen => "SUBJECT_NOT_FROZEN",
            Self::NotErased => "SUBJECT_NOT_ERASED",
            Self::NotVerified => "ERASURE_NOT_VERIFIED",
            Self::ErasureStarted => "ERASURE_STARTED",
        }
    }
}

/// Checks whether `step` is allowed, and returns the state of the subject after it. `answered` are the steps
/// of its purge that were answered.
///
/// # Errors
/// [`Refused`] if the step is not allowed.
pub fn admit(
    record: &Record,
    step: &Step,
    answered: impl IntoIterator<Item = StepKind>,
) -> Result<State, Refused> {
    let (mut thawed, mut verified) = (false, false);
    for kind in answered {
        thawed |= kind == StepKind::Thaw;
        verified |= kind == StepKind::Verify;
    }
    if step.epoch < 1 {
        return Err(Refused::NoEpoch);
    }
    if step.epoch < record.epoch {
        return Err(Refused::StaleEpoch { seen: record.epoch });
    }
    if thawed && step.kind != StepKind::Thaw {
        return Err(Refused::Thawed);
    }
    let ours = record.purge_id == Some(step.purge_id);
    if !ours {
        // Only a freeze with a higher epoch takes a subject over from another purge. A live subject also
        // accepts the thaw of a purge that is canceled before its freeze.
        match (step.kind, record.state) {
            (StepKind::Freeze, _) | (StepKind::Thaw, State::Live) => {}
            (_, State::Live) => return Err(Refused::NotFrozen),
            (_, State::Frozen | State::Erasing | State::Erased) => return Err(Refused::OtherPurge),
        }
        if record.purge_id.is_some() && step.epoch == record.epoch {
            return Err(Refused::OtherPurge);
        }
    }
    match (step.kind, record.state) {
        (StepKind::Freeze, State::Live) => Ok(State::Frozen),
        (StepKind::Inventory | StepKind::Erase | StepKind::Verify | StepKind::Commit, State::Live) => {
            Err(Refused::NotFrozen)
        }

        // A thaw of a live subject: its purge was canceled before the freeze arrived, or the thaw is
        // repeated. The subject stays live, and a later freeze of the same purge is refused.
        (StepKind::Thaw, State::Live | State::Frozen) => Ok(State::Live),
        (StepKind::Erase, State::Frozen) => Ok(State::Erasing),
        (StepKind::Verify | StepKind::Commit, State::Frozen) => Err(Refused::NotErased),

        (StepKind::Thaw, State::Erasing | State::Erased) => Err(Refused::ErasureStarted),
        (StepKind::Commit, State::Erasing) if verified => Ok(State::Erased),
        (StepKind::Commit, State::Erasing) => Err(Refused::NotVerified),

        (
            StepKind::Freeze | StepKind::Inventory,
            state @ (State::Frozen | State::Erasing | State::Erased),
        )
        | (StepKind::Erase | StepKind::Verify, state @ (State::Erasing | State::Erased))
        | (StepKind::Commit, state @ State::Erased) => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AccountId, SessionId};

    fn step(purge_id: PurgeId, epoch: i64, kind: StepKind) -> Step {
        let subject = Subject::Session { account: AccountId::new(), session: SessionId::new() };
        Step { purge_id, epoch, subject, kind }
    }

    #[test]
    fn each_step_moves_each_state_as_the_table_says() {
        use Refused::{ErasureStarted, NotErased, NotFrozen, NotVerified};
        use State::{Erased, Erasing, Frozen, Live};
        let purge = PurgeId::new();
        let table: [(StepKind, [Result<State, Refused>; 4]); 6] = [
            // from:                  live             frozen             erasing              erased
            (StepKind::Freeze, [Ok(Frozen), Ok(Frozen), Ok(Erasing), Ok(Erased)]),
            (StepKind::Thaw, [Ok(Live), Ok(Live), Err(ErasureStarted), Err(ErasureStarted)]),
            (StepKind::Inventory, [Err(NotFrozen), Ok(Frozen), Ok(Erasing), Ok(Erased)]),
            (StepKind::Erase, [Err(NotFrozen), Ok(Erasing), Ok(Erasing), Ok(Erased)]),
            (StepKind::Verify, [Err(NotFrozen), Err(NotErased), Ok(Erasing), Ok(Erased)]),
            (StepKind::Commit, [Err(NotFrozen), Err(NotErased), Err(NotVerified), Ok(Erased)]),
        ];
        for (kind, row) in table {
            for (state, want) in State::ALL.into_iter().zip(row) {
                let record = Record { state, epoch: 3, purge_id: Some(purge) };
                assert_eq!(admit(&record, &step(purge, 3, kind), []), want, "{kind:?} from {state:?}");
            }
        }
        let erasing = Record { state: Erasing, epoch: 3, purge_id: Some(purge) };
        assert_eq!(admit(&erasing, &step(purge, 3, StepKind::Commit), [StepKind::Verify]), Ok(Erased));
    }

    #[test]
    fn a_lower_epoch_is_refused_at_every_step_and_state() {
        let purge = PurgeId::new();
        for kind in StepKind::ALL {
            for state in State::ALL {
                let record = Record { state, epoch: 4, purge_id: Some(purge) };
                let refused = admit(&record, &step(purge, 3, kind), []);
                assert_eq!(refused, Err(Refused::StaleEpoch { seen: 4 }), "{kind:?} from {state:?}");
            }
        }
    }

    #[test]
    fn another_purge_takes_over_only_by_a_higher_freeze() {
        let (first, second) = (PurgeId::new(), PurgeId::new());
        for state in [State::Frozen, State::Erasing, State::Erased] {
            let record = Record { state, epoch: 4, purge_id: Some(first) };
            assert_eq!(admit(&record, &step(second, 4, StepKind::Freeze), []), Err(Refused::OtherPurge));
            assert_eq!(admit(&record, &step(second, 5, StepKind::Freeze), []), Ok(state));
            for kind in [StepKind::Thaw, StepKind::Erase, StepKind::Verify, StepKind::Commit] {
                assert_eq!(admit(&record, &step(second, 5, kind), []), Err(Refused::OtherPurge), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_purge_may_be_canceled_before_it_began_if_alone() {
        let (first, second) = (PurgeId::new(), PurgeId::new());
        let thaw = |epoch| step(second, epoch, StepKind::Thaw);
        let never = Record { state: State::Live, epoch: 0, purge_id: None };
        assert_eq!(admit(&never, &thaw(1), []), Ok(State::Live));
        let given_up = Record { state: State::Live, epoch: 4, purge_id: Some(first) };
        assert_eq!(admit(&given_up, &thaw(5), []), Ok(State::Live));
        assert_eq!(admit(&given_up, &thaw(4), []), Err(Refused::OtherPurge));
        assert_eq!(admit(&given_up, &thaw(3), []), Err(Refused::StaleEpoch { seen: 4 }));
    }

    #[test]
    fn nothing_follows_a_thaw_in_its_purge() {
        let purge = PurgeId::new();
        let record = Record { state: State::Live, epoch: 4, purge_id: Some(purge) };
        for kind in StepKind::ALL {
            let want = if kind == StepKind::Thaw { Ok(State::Live) } else { Err(Refused::Thawed) };
            assert_eq!(
                admit(&record, &step(purge, 4, kind), [StepKind::Freeze, StepKind::Thaw]),
                want,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn steps_are_found_by_their_names() {
        for kind in StepKind::ALL {
            assert_eq!(StepKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(StepKind::from_name("burn"), None);
    }
}
