//! [`next`] decides every change of a sandbox's state; no other function does. The store writes its result
//! only if the row is unchanged.
//!
//! * From `deleting` only a final state follows.
//! * A container is removed in `deleting`; in a final state only if the engine created it late.
//! * `gone` and `failed` need the container's confirmed absence. If the container's id was never confirmed,
//!   they are reached only after [`Container::fence_until`], when the engine can no longer be creating it.
//! * Every state that is not final has a deadline.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    pool::{PoolState, Slot},
    sandbox::{Cause, Container, Sandbox, State},
    time::after,
};

/// An event in the life of a sandbox. A claim from the pool does not go through [`next`]: one statement of
/// the store writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A worker begins to create its container.
    Take {
        /// Name of its new run directory.
        run_dir: String,
        /// Id of its image.
        image: String,
        /// Time allowed for the creation.
        within: Duration,
    },
    /// The engine reported the container's id.
    Made { container: String },
    /// The guest has answered.
    Ready {
        /// The guest instance that answered.
        instance: String,
        /// Maximum time until its first use. A sandbox in the pool has its retirement as deadline instead.
        within: Duration,
    },
    /// The sandbox is to be removed.
    Delete {
        cause: Cause,
        /// Time that the removal should take.
        within: Duration,
    },
    /// The engine confirmed that its container is absent.
    Absent,
}

/// Why a sandbox cannot change as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    /// The input does not apply to this state.
    #[error("not while the sandbox is {0:?}")]
    State(State),
    /// A create may be under way until this time.
    #[error("a create may be under way until {0}")]
    TooEarly(DateTime<Utc>),
    /// Another container id is confirmed already.
    #[error("the sandbox has another container")]
    OtherContainer,
}

/// Returns the sandbox after `input` at `now`, or `None` if the input changes nothing.
///
/// # Errors
/// [`InvalidTransition`] if the input does not apply.
pub fn next(
    sandbox: &Sandbox,
    input: Input,
    now: DateTime<Utc>,
) -> Result<Option<Sandbox>, InvalidTransition> {
    let mut next = Sandbox { generation: sandbox.generation + 1, ..sandbox.clone() };
    let refused = InvalidTransition::State(sandbox.state);
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
        // The id is accepted during a removal too: the remover that finds the container by its name writes
        // the id with this input.
        (State::Creating | State::Deleting, Input::Made { container: id }) => {
            let Some(container) = &mut next.container else { return Err(refused) };
            match &container.id {
                Some(known) if *known == id => return Ok(None),
                Some(_) => return Err(InvalidTransition::OtherContainer),
                None => container.id = Some(id),
            }
        }
        (State::Creating, Input::Ready { instance, within }) => {
            let Some(container) = &mut next.container else { return Err(refused) };
            container.instance = Some(instance);
            next.state = State::Running;
            next.slot = next.slot.map(|slot| Slot { state: PoolState::Available, ..slot });
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
                    return Err(InvalidTransition::TooEarly(container.fence_until));
                }
                Some(_) | None => {}
            }
            let failed = sandbox.running_at.is_none() && sandbox.cause.is_some_and(Cause::is_failure);
            next.state = if failed { State::Failed } else { State::Gone };
            next.epoch += 1;
            next.ended_at = Some(now);
        }
        // The input changes nothing: the removal is committed already, or the sandbox is final.
        (State::Deleting | State::Gone | State::Failed, Input::Delete { .. })
        | (State::Gone | State::Failed, Input::Absent) => return Ok(None),
        (_, Input::Take { .. } | Input::Made { .. } | Input::Ready { .. } | Input::Absent) => {
            return Err(refused);
        }
    }
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use svc_core::id::SandboxId;

    use super::*;
    use crate::domain::{
        VolumeId,
        shape::{Network, Shape},
    };

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
            slot: (state.is_pending() || state == State::Running)
                .then_some(Slot { number: 1, state: PoolState::Filling }),
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
        // One row for each state; the columns are take, made, ready, delete, absent. `Some(None)`: the input
        // changes nothing. `None`: it is refused.
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
                    (Ok(None), Some(None)) | (Err(InvalidTransition::State(_)), None) => {}
                    _ => panic!("{state:?} and {input:?} give {outcome:?} instead of {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn taking_sets_name_directory_and_deadline_of_the_container() {
        let taken = next(&sandbox(State::Requested), inputs()[0].clone(), at(0)).unwrap().unwrap();
        let container = taken.container.unwrap();
        assert_eq!((container.generation, container.run_dir.as_str(), container.id), (6, "run", None));
        assert_eq!((container.fence_until, taken.deadline_at, taken.epoch), (at(100), at(100), 4));
    }

    #[test]
    fn a_container_gets_its_id_once() {
        let mut creating = sandbox(State::Creating);
        let made = |id: &str| Input::Made { container: id.into() };
        assert_eq!(next(&creating, made("another"), at(0)), Err(InvalidTransition::OtherContainer));
        creating.container.as_mut().unwrap().id = None;
        let known = next(&creating, made("container"), at(0)).unwrap().unwrap();
        assert_eq!(known.container.unwrap().id.as_deref(), Some("container"));
    }

    #[test]
    fn a_ready_slot_is_available_and_a_deleted_one_is_freed() {
        let ready = next(&sandbox(State::Creating), inputs()[2].clone(), at(0)).unwrap().unwrap();
        assert_eq!(ready.slot, Some(Slot { number: 1, state: PoolState::Available }));
        assert_eq!((ready.running_at, ready.deadline_at), (Some(at(0)), at(100)));
        let deleted = next(&ready, inputs()[3].clone(), at(1)).unwrap().unwrap();
        assert_eq!(deleted.slot, None);
    }

    #[test]
    fn a_pooled_sandbox_keeps_its_retirement_as_deadline() {
        let warm = Sandbox { retire_at: Some(at(7)), ..sandbox(State::Creating) };
        assert_eq!(next(&warm, inputs()[2].clone(), at(0)).unwrap().unwrap().deadline_at, at(7));
    }

    #[test]
    fn absence_counts_only_after_the_fence_of_unconfirmed_creates() {
        let mut deleting = sandbox(State::Deleting);
        deleting.container.as_mut().unwrap().id = None;
        assert_eq!(next(&deleting, Input::Absent, at(49)), Err(InvalidTransition::TooEarly(at(50))));
        assert_eq!(next(&deleting, Input::Absent, at(50)).unwrap().unwrap().state, State::Gone);
        deleting.container = None;
        assert_eq!(next(&deleting, Input::Absent, at(0)).unwrap().unwrap().state, State::Gone);
    }

    #[test]
    fn only_a_failure_before_running_ends_as_failed() {
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
