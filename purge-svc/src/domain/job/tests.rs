//! Compares [`next`] with [`table`], for every state and input.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::{machine::Act, *};
use crate::domain::schedule::Retry;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn later() -> DateTime<Utc> {
    now() + TimeDelta::hours(1)
}

fn at(state: State) -> Record {
    Record { state, attempts: 3, rounds: 1, generation: 7, ..Record::accepted(now()) }
}

fn failed(parked: bool) -> Input {
    Input::Failed { cause: Cause::CustodianUnavailable, retry: Retry { at: later(), parked } }
}

fn inputs() -> [Input; 14] {
    [
        Input::Frozen,
        Input::Inventoried,
        Input::Cleared,
        Input::Held(later()),
        Input::Erased,
        Input::ItemsRefused,
        Input::Clean,
        Input::Residue(later()),
        Input::Receipted,
        failed(false),
        failed(true),
        Input::LettersResolved,
        Input::Canceled,
        Input::Thawed,
    ]
}

/// Expected result of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Goes(State),
    OutOfOrder,
    ErasureStarted,
    Canceling,
    Final,
}

fn cell(record: &Record, input: Input) -> Cell {
    match next(record, input, now()) {
        Ok(transition) => Cell::Goes(transition.record.state),
        Err(Refused::OutOfOrder { state, input: refused }) => {
            assert_eq!((state, refused), (record.state, input));
            Cell::OutOfOrder
        }
        Err(Refused::ErasureStarted) => Cell::ErasureStarted,
        Err(Refused::Canceling) => Cell::Canceling,
        Err(Refused::Final) => Cell::Final,
    }
}

const NO: Cell = Cell::OutOfOrder;

const fn w(phase: Phase) -> Cell {
    Cell::Goes(State::Working(phase))
}

const fn b(phase: Phase) -> Cell {
    Cell::Goes(State::Blocked(phase))
}

/// Returns the expected result of each input, in the order of [`inputs`], for a job that is working or
/// blocked in `phase`.
fn table(phase: Phase) -> [Cell; 14] {
    use Phase::{Erased, Erasing, Frozen, Inventoried, Pending, Verified};
    let column = match phase {
        Pending => 0,
        Frozen => 1,
        Inventoried => 2,
        Erasing => 3,
        Erased => 4,
        Verified => 5,
    };
    let late = Cell::ErasureStarted;
    let dead = Cell::Goes(State::DeadLettered);
    let done = Cell::Goes(State::Committed);
    let rows: [[Cell; 6]; 14] = [
        // from:          pending     frozen           inventoried     erasing      erased       verified
        /* Frozen */
        [w(Frozen), NO, NO, NO, NO, NO],
        /* Inventoried */ [NO, w(Inventoried), NO, NO, NO, NO],
        /* Cleared */ [NO, NO, w(Erasing), NO, NO, NO],
        /* Held */ [b(Pending), NO, b(Inventoried), NO, NO, NO],
        /* Erased */ [NO, NO, NO, w(Erased), NO, NO],
        /* ItemsRefused */ [NO, NO, NO, dead, NO, NO],
        /* Clean */ [NO, NO, NO, NO, w(Verified), NO],
        /* Residue */ [NO, NO, NO, NO, b(Erasing), NO],
        /* Receipted */ [NO, NO, NO, NO, NO, done],
        /* Failed */ [w(Pending), w(Frozen), w(Inventoried), w(Erasing), w(Erased), w(Verified)],
        /* Failed, parked */
        [b(Pending), b(Frozen), b(Inventoried), b(Erasing), b(Erased), b(Verified)],
        /* LettersResolved */ [NO, NO, NO, NO, NO, NO],
        /* Canceled */ [w(Pending), w(Frozen), w(Inventoried), late, late, late],
        /* Thawed */ [NO, NO, NO, NO, NO, NO],
    ];
    rows.map(|row| row[column])
}

#[test]
fn each_input_moves_each_state_as_the_table_says() {
    for state in State::ALL {
        let want = match state {
            // A blocked job continues in the same way as a working one.
            State::Working(phase) | State::Blocked(phase) => table(phase),
            State::Committed | State::Thawed => [Cell::Final; 14],
            State::DeadLettered => {
                let mut row = [NO; 14];
                row[11] = w(Phase::Erasing);
                row[12] = Cell::ErasureStarted;
                row
            }
        };
        for (input, want) in inputs().into_iter().zip(want) {
            assert_eq!(cell(&at(state), input), want, "{input:?} at {state:?}");
        }
    }
}

#[test]
fn a_canceled_job_only_fails_or_thaws() {
    for phase in [Phase::Pending, Phase::Frozen, Phase::Inventoried] {
        let record = Record { canceling: true, ..at(State::Working(phase)) };
        for input in inputs() {
            let want = match input {
                Input::Thawed => Cell::Goes(State::Thawed),
                Input::Failed { retry, .. } if retry.parked => b(phase),
                Input::Failed { .. } | Input::Canceled => w(phase),
                Input::Frozen | Input::Inventoried | Input::Cleared | Input::Held(_) => Cell::Canceling,
                _ => NO,
            };
            assert_eq!(cell(&record, input), want, "{input:?} at {phase:?}");
        }
    }
}

#[test]
fn a_finished_step_resets_attempts_and_cause() {
    let waiting = Record { cause: Some(Cause::CustodianUnavailable), ..at(State::Blocked(Phase::Pending)) };
    let frozen = next(&waiting, Input::Frozen, now()).unwrap();
    assert_eq!(
        frozen.record,
        Record {
            attempts: 0,
            cause: None,
            next_attempt_at: now(),
            generation: 8,
            ..at(State::Working(Phase::Frozen))
        }
    );
    assert_eq!(frozen.act, None);
}

#[test]
fn a_failure_is_counted_and_says_when_to_come_back() {
    let record = next(&at(State::Working(Phase::Erasing)), failed(false), now()).unwrap().record;
    assert_eq!(
        (record.attempts, record.cause, record.next_attempt_at),
        (4, Some(Cause::CustodianUnavailable), later())
    );
}

#[test]
fn a_hold_is_no_failure() {
    let record = next(&at(State::Working(Phase::Inventoried)), Input::Held(later()), now()).unwrap().record;
    assert_eq!((record.attempts, record.cause, record.next_attempt_at), (3, Some(Cause::Held), later()));
}

#[test]
fn residue_leads_back_to_erasing_and_counts_as_a_round() {
    let record = next(&at(State::Working(Phase::Erased)), Input::Residue(later()), now()).unwrap().record;
    assert_eq!(record.state, State::Blocked(Phase::Erasing));
    assert_eq!((record.attempts, record.rounds), (0, 2));
    assert_eq!((record.cause, record.next_attempt_at), (Some(Cause::Residue), later()));
}

#[test]
fn the_two_irreversible_acts_are_named_where_they_happen() {
    for state in State::ALL {
        for input in inputs() {
            let Ok(transition) = next(&at(state), input, now()) else { continue };
            let want = match input {
                Input::Cleared => Some(Act::ErasureStarted),
                Input::Receipted => Some(Act::ErasureCommitted),
                _ => None,
            };
            assert_eq!(transition.act, want, "{input:?} at {state:?}");
            let committed = transition.record.committed_at;
            assert_eq!(committed, (input == Input::Receipted).then(now), "{input:?} at {state:?}");
        }
    }
}

#[test]
fn names_tell_causes_apart() {
    for cause in Cause::ALL {
        assert_eq!(Cause::from_name(cause.name()), Some(cause));
    }
}

proptest! {
    /// Checks for every sequence of inputs: a job past the point of no return never thaws; generations only
    /// grow; a job is committed only after every custodian read back zero, and then changes no more.
    #[test]
    fn no_order_of_inputs_breaks_the_promises(picks in proptest::collection::vec(0_usize..14, 1..60)) {
        let mut record = Record::accepted(now());
        let (mut started, mut clean) = (false, false);
        for pick in picks {
            let input = inputs()[pick];
            let Ok(transition) = next(&record, input, now()) else { continue };
            prop_assert_eq!(transition.record.generation, record.generation + 1);
            record = transition.record;
            started |= input == Input::Cleared;
            clean = match input {
                Input::Clean => true,
                Input::Residue(_) => false,
                _ => clean,
            };
            if record.state == State::Thawed {
                prop_assert!(!started && record.canceling);
            }
            if record.state == State::Committed {
                prop_assert!(started && clean && !record.canceling);
            }
            if started && let Some(phase) = record.state.phase() {
                prop_assert!(!phase.is_cancelable());
            }
        }
    }
}
