//! The machine of a sandbox: `requested → creating → running → deleting → gone | failed`.
//!
//! [`next`] is the only place that decides what a sandbox becomes; a store writes the result if nobody was faster.
//! What it guards:
//!
//! * `deleting` is absorbing: a container is removed only to carry it out, and nothing leads back.
//! * `gone` and `failed` need the container's absence seen, and while its id was never confirmed, seen after every
//!   create that may still be under way had its time ([`Container::fence_until`]).
//! * Every state that is not final has a deadline.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use svc_core::id::{AccountId, SandboxId, SessionId};

use super::{VolumeId, pool::Slot, spec::Shape};

/// Where a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted; waits for a worker of its engine.
    Requested,
    /// Its container is being made.
    Creating,
    /// Its guest answers.
    Running,
    /// Its removal is committed.
    Deleting,
    /// Final: its container is confirmed absent.
    Gone,
    /// Final: it never ran; nothing of it is left.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Requested, Self::Creating, Self::Running, Self::Deleting, Self::Gone, Self::Failed];

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Gone | Self::Failed => true,
            Self::Requested | Self::Creating | Self::Running | Self::Deleting => false,
        }
    }

    /// Whether it still has to become what was asked for.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        match self {
            Self::Requested | Self::Creating => true,
            Self::Running | Self::Deleting | Self::Gone | Self::Failed => false,
        }
    }
}

/// Why a sandbox is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Somebody asked for it.
    Deleted,
    /// Nobody used it until its deadline.
    Expired,
    /// Its subject is being erased.
    Erased,
    /// It grew too old in the pool, or the pool shrank.
    Retired,
    /// Nobody made it in time.
    CreateTimeout,
    /// The engine has no such image.
    ImageMissing,
    /// The engine refused to make or start it.
    EngineRefused,
    /// Its guest did not answer in time.
    GuestSilent,
    /// Its container is not there any more.
    ContainerLost,
    /// Its container ended.
    ContainerExited,
    /// Its guest was started anew and has no records.
    GuestRestarted,
    /// Its container was found without a record.
    Orphaned,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::Deleted,
        Self::Expired,
        Self::Erased,
        Self::Retired,
        Self::CreateTimeout,
        Self::ImageMissing,
        Self::EngineRefused,
        Self::GuestSilent,
        Self::ContainerLost,
        Self::ContainerExited,
        Self::GuestRestarted,
        Self::Orphaned,
    ];

    /// Whether a sandbox that never ran failed, rather than not being wanted any more.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::CreateTimeout
            | Self::ImageMissing
            | Self::EngineRefused
            | Self::GuestSilent
            | Self::ContainerLost
            | Self::ContainerExited
            | Self::GuestRestarted => true,
            Self::Deleted | Self::Expired | Self::Erased | Self::Retired | Self::Orphaned => false,
        }
    }
}

/// Whose sandbox it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The tenant.
    pub account: AccountId,
    /// The session it serves.
    pub session: SessionId,
}

/// The container of a sandbox: there is, was, or may be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Generation of the sandbox as its making was committed: part of its name.
    pub generation: i64,
    /// Name of its run directory; without the directory it can be neither made nor started.
    pub run_dir: String,
    /// Id of the image it is made from.
    pub image: String,
    /// Its id, once the engine told it.
    pub id: Option<String>,
    /// The guest that answered in it.
    pub instance: Option<String>,
    /// Until then a create may be under way that nobody here remembers.
    pub fence_until: DateTime<Utc>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Whose it is; nobody's while it waits in the pool.
    pub owner: Option<Owner>,
    /// The engine it lives on.
    pub engine: String,
    /// Where it stands.
    pub state: State,
    /// Version of the record.
    pub generation: i64,
    /// Fencing token of whoever makes or removes it.
    pub epoch: i64,
    /// Whether it was made for the pool.
    pub warm: bool,
    /// Its place in the pool, until it is claimed or retired.
    pub slot: Option<Slot>,
    /// When it leaves the pool if nobody claimed it.
    pub retire_at: Option<DateTime<Utc>>,
    /// What it is made of.
    pub shape: Shape,
    /// Its workspace.
    pub volume: VolumeId,
    /// Its container.
    pub container: Option<Container>,
    /// Why it is deleted.
    pub cause: Option<Cause>,
    /// When it was requested.
    pub created_at: DateTime<Utc>,
    /// When its guest first answered.
    pub running_at: Option<DateTime<Utc>>,
    /// When it was last used.
    pub last_active_at: DateTime<Utc>,
    /// Until when it must have left its state.
    pub deadline_at: DateTime<Utc>,
    /// When it became final.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What happens to a sandbox. (A claim from the pool is one statement of the store.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A worker begins to make it.
    Take {
        /// Its new run directory.
        run_dir: String,
        /// Id of the image.
        image: String,
        /// Time it has for it.
        within: Duration,
    },
    /// The engine told the container's id.
    Made {
        /// The id.
        container: String,
    },
    /// The guest answers.
    Ready {
        /// Which one.
        instance: String,
        /// Time until somebody must have used it, unless it waits in the pool.
        within: Duration,
    },
    /// It is to be removed.
    Delete {
        /// Why.
        cause: Cause,
        /// Time that should take.
        within: Duration,
    },
    /// Its container is not there.
    Absent,
}

/// Why something cannot happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not in this state.
    #[error("not while the sandbox is {0:?}")]
    State(State),
    /// A create may still be under way until then.
    #[error("a create may be under way until {0}")]
    TooEarly(DateTime<Utc>),
    /// Its container has another id already.
    #[error("the sandbox has another container")]
    OtherContainer,
}

/// What `input` at `now` makes of a sandbox; `None` if it changes nothing.
///
/// # Errors
/// [`Refused`] if it cannot happen.
pub fn next(sandbox: &Sandbox, input: Input, now: DateTime<Utc>) -> Result<Option<Sandbox>, Refused> {
    let mut next = Sandbox { generation: sandbox.generation + 1, ..sandbox.clone() };
    match (sandbox.state, input) {
        (State::Requested, Input::Take { run_dir, image, within }) => {
            next.state = State::Creating;
            next.epoch += 1;
            next.deadline_at = after(now, within);
            next.container = Some(Container {
                generation: next.generation,
                run_dir,
                image,
                id: None,
                instance: None,
                fence_until: next.deadline_at,
            });
        }
        // While it is removed, too: who finds its container by name confirms its id by that.
        (State::Creating | State::Deleting, Input::Made { container: id }) => {
            let Some(container) = &mut next.container else { return Err(Refused::State(sandbox.state)) };
            match &container.id {
                Some(known) if *known == id => return Ok(None),
                Some(_) => return Err(Refused::OtherContainer),
                None => container.id = Some(id),
            }
        }
        (State::Creating, Input::Ready { instance, within }) => {
            let Some(container) = &mut next.container else { return Err(Refused::State(sandbox.state)) };
            container.instance = Some(instance);
            next.state = State::Running;
            next.slot = next.slot.map(Slot::filled);
            next.running_at = Some(now);
            next.last_active_at = now;
            next.deadline_at = next.retire_at.unwrap_or_else(|| after(now, within));
        }
        (State::Requested | State::Creating | State::Running, Input::Delete { cause, within }) => {
            next.state = State::Deleting;
            next.epoch += 1;
            next.cause = Some(cause);
            next.slot = None;
            next.deadline_at = after(now, within);
        }
        (State::Deleting, Input::Absent) => {
            match &sandbox.container {
                Some(container) if container.id.is_none() && now < container.fence_until => {
                    return Err(Refused::TooEarly(container.fence_until));
                }
                Some(_) | None => {}
            }
            let failed = sandbox.running_at.is_none() && sandbox.cause.is_some_and(Cause::is_failure);
            next.state = if failed { State::Failed } else { State::Gone };
            next.epoch += 1;
            next.ended_at = Some(now);
        }
        // Asked again, or by several at once: it is under way or done.
        (State::Deleting | State::Gone | State::Failed, Input::Delete { .. })
        | (State::Gone | State::Failed, Input::Absent) => return Ok(None),
        (state, Input::Take { .. } | Input::Made { .. } | Input::Ready { .. } | Input::Absent) => {
            return Err(Refused::State(state));
        }
    }
    Ok(Some(next))
}

/// `within` from `now`; the end of time for durations that no date can bear.
#[must_use]
pub fn after(now: DateTime<Utc>, within: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(within)
        .ok()
        .and_then(|within| now.checked_add_signed(within))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::spec::Network;

    const WITHIN: Duration = Duration::from_secs(100);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn sandbox(state: State) -> Sandbox {
        let container = Container {
            generation: 2,
            run_dir: "run".into(),
            image: "sha256:1".into(),
            id: Some("container".into()),
            instance: None,
            fence_until: at(50),
        };
        Sandbox {
            id: SandboxId::new(),
            owner: None,
            engine: "E".into(),
            state,
            generation: 5,
            epoch: 3,
            warm: true,
            slot: (state.is_pending() || state == State::Running).then_some(Slot::filling(1)),
            retire_at: None,
            shape: Shape {
                image: "image".into(),
                runtime: String::new(),
                cpu_millis: 1000,
                memory_bytes: 1,
                network: Network::None,
            },
            volume: VolumeId::new(),
            container: (state != State::Requested).then_some(container),
            cause: None,
            created_at: at(-10),
            running_at: None,
            last_active_at: at(-10),
            deadline_at: at(50),
            ended_at: None,
        }
    }

    fn inputs() -> [Input; 5] {
        [
            Input::Take { run_dir: "run".into(), image: "sha256:1".into(), within: WITHIN },
            Input::Made { container: "container".into() },
            Input::Ready { instance: "instance".into(), within: WITHIN },
            Input::Delete { cause: Cause::Deleted, within: WITHIN },
            Input::Absent,
        ]
    }

    #[test]
    fn every_state_meets_every_input() {
        use State::{Creating, Deleting, Failed, Gone, Requested, Running};
        // Rows: states; columns: take, made, ready, delete, absent. Some(None): nothing changes; None: refused.
        type Row = [Option<Option<State>>; 5];
        let table: [(State, Row); 6] = [
            (Requested, [Some(Some(Creating)), None, None, Some(Some(Deleting)), None]),
            (Creating, [None, Some(None), Some(Some(Running)), Some(Some(Deleting)), None]),
            (Running, [None, None, None, Some(Some(Deleting)), None]),
            (Deleting, [None, Some(None), None, Some(None), Some(Some(Gone))]),
            (Gone, [None, None, None, Some(None), Some(None)]),
            (Failed, [None, None, None, Some(None), Some(None)]),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        for (state, row) in table {
            for (input, expected) in inputs().into_iter().zip(row) {
                let before = sandbox(state);
                let outcome = next(&before, input.clone(), at(0));
                match (&outcome, expected) {
                    (Ok(Some(after)), Some(Some(state))) => {
                        assert_eq!(
                            (after.state, after.generation),
                            (state, before.generation + 1),
                            "{input:?}"
                        );
                        assert!(
                            state.is_final() || after.deadline_at > at(0),
                            "{input:?} leaves no deadline"
                        );
                        assert_eq!(after.ended_at.is_some(), state.is_final(), "{input:?}");
                    }
                    (Ok(None), Some(None)) | (Err(Refused::State(_)), None) => {}
                    _ => panic!("{state:?} and {input:?} give {outcome:?} instead of {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn taking_commits_name_directory_and_deadline_before_anything_is_made() {
        let taken = next(&sandbox(State::Requested), inputs()[0].clone(), at(0)).unwrap().unwrap();
        let container = taken.container.unwrap();
        assert_eq!((container.generation, container.run_dir.as_str(), container.id), (6, "run", None));
        assert_eq!((container.fence_until, taken.deadline_at, taken.epoch), (at(100), at(100), 4));
    }

    #[test]
    fn a_container_gets_its_id_once() {
        let mut creating = sandbox(State::Creating);
        let made = |id: &str| Input::Made { container: id.into() };
        assert_eq!(next(&creating, made("another"), at(0)), Err(Refused::OtherContainer));
        creating.container.as_mut().unwrap().id = None;
        let known = next(&creating, made("container"), at(0)).unwrap().unwrap();
        assert_eq!(known.container.unwrap().id.as_deref(), Some("container"));
    }

    #[test]
    fn a_ready_slot_can_be_claimed_and_a_deleted_one_not() {
        let ready = next(&sandbox(State::Creating), inputs()[2].clone(), at(0)).unwrap().unwrap();
        assert_eq!(ready.slot, Some(Slot::filling(1).filled()));
        assert_eq!((ready.running_at, ready.deadline_at), (Some(at(0)), at(100)));
        let deleted = next(&ready, inputs()[3].clone(), at(1)).unwrap().unwrap();
        assert_eq!(deleted.slot, None);
    }

    #[test]
    fn a_sandbox_of_the_pool_has_until_its_retirement() {
        let warm = Sandbox { retire_at: Some(at(7)), ..sandbox(State::Creating) };
        assert_eq!(next(&warm, inputs()[2].clone(), at(0)).unwrap().unwrap().deadline_at, at(7));
    }

    #[test]
    fn absence_counts_only_after_every_unconfirmed_create_had_its_time() {
        let mut deleting = sandbox(State::Deleting);
        deleting.container.as_mut().unwrap().id = None;
        assert_eq!(next(&deleting, Input::Absent, at(49)), Err(Refused::TooEarly(at(50))));
        assert_eq!(next(&deleting, Input::Absent, at(50)).unwrap().unwrap().state, State::Gone);
        deleting.container = None;
        assert_eq!(next(&deleting, Input::Absent, at(0)).unwrap().unwrap().state, State::Gone);
    }

    #[test]
    fn failed_is_what_never_ran_though_it_was_wanted() {
        for (ran, cause, state) in [
            (false, Cause::ImageMissing, State::Failed),
            (false, Cause::Deleted, State::Gone),
            (true, Cause::ContainerLost, State::Gone),
        ] {
            let deleting =
                Sandbox { cause: Some(cause), running_at: ran.then(|| at(0)), ..sandbox(State::Deleting) };
            assert_eq!(next(&deleting, Input::Absent, at(60)).unwrap().unwrap().state, state, "{cause:?}");
        }
    }
}
