use chrono::TimeDelta;

use super::*;

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn standing(status: TurnStatus) -> Standing {
    Standing {
        status,
        epoch: 3,
        generation: 7,
        attempts: 2,
        no_progress_claims: 2,
        started_at: None,
        ended_at: None,
        deadline_at: NOW + TimeDelta::seconds(60),
    }
}

const STATUSES: [TurnStatus; 5] = [
    TurnStatus::Queued,
    TurnStatus::Running,
    TurnStatus::Completed,
    TurnStatus::Failed,
    TurnStatus::Canceled,
];

const INPUTS: [Input; 9] = [
    Input::Claim,
    Input::Advance,
    Input::Release,
    Input::End(Ending::Completed),
    Input::End(Ending::Failed(FailCause::Poisoned)),
    Input::End(Ending::Canceled(CancelCause::User)),
    Input::Cancel(CancelCause::User),
    Input::Cancel(CancelCause::Interrupted),
    Input::Cancel(CancelCause::Erased),
];

/// Returns the status after `input`, and by how much the epoch, the attempts and the claims without progress
/// change; `None` if the input is refused.
fn expected(from: TurnStatus, input: Input) -> Option<(TurnStatus, i64, i32, i32)> {
    use TurnStatus::{Canceled, Completed, Failed, Queued, Running};
    match (from, input) {
        (Queued, Input::Claim) => Some((Running, 1, 1, 1)),
        (Queued, Input::Cancel(_)) => Some((Canceled, 1, 0, 0)),
        (Queued, Input::Advance | Input::Release | Input::End(_)) => None,
        (Running, Input::Claim) => Some((Running, 1, 1, 1)),
        (Running, Input::Advance) => Some((Running, 0, 0, -2)),
        (Running, Input::Release) => Some((Running, 0, 0, -1)),
        (Running, Input::End(Ending::Completed)) => Some((Completed, 1, 0, 0)),
        (Running, Input::End(Ending::Failed(_))) => Some((Failed, 1, 0, 0)),
        (Running, Input::End(Ending::Canceled(_))) => Some((Canceled, 1, 0, 0)),
        (Running, Input::Cancel(_)) => Some((Canceled, 1, 0, 0)),
        (Completed | Failed | Canceled, _) => None,
    }
}

#[test]
fn every_status_takes_or_refuses_every_input() {
    for from in STATUSES {
        for input in INPUTS {
            let before = standing(from);
            match (next(&before, input, NOW), expected(from, input)) {
                (Ok(after), Some((status, epoch, attempts, no_progress))) => {
                    let change = (
                        after.status,
                        after.epoch - before.epoch,
                        after.attempts - before.attempts,
                        after.no_progress_claims - before.no_progress_claims,
                    );
                    assert_eq!(change, (status, epoch, attempts, no_progress), "{from:?} {input:?}");
                    assert_eq!(after.generation, before.generation + 1, "{from:?} {input:?}");
                    assert_eq!(after.ended_at.is_some(), status.is_final(), "{from:?} {input:?}");
                    assert_eq!(after.deadline_at, before.deadline_at, "a deadline never moves");
                }
                (Err(refused), None) => assert_eq!(refused, InvalidTransition { from, input }),
                (got, want) => panic!("{from:?} {input:?}: {got:?}, not {want:?}"),
            }
        }
    }
}

#[test]
fn the_first_claim_sets_started_at() {
    let first = next(&standing(TurnStatus::Queued), Input::Claim, NOW).unwrap();
    let later = next(&first, Input::Claim, NOW + TimeDelta::seconds(9)).unwrap();
    assert_eq!((first.started_at, later.started_at), (Some(NOW), Some(NOW)));
}

#[test]
fn the_sixth_claim_without_progress_is_refused() {
    let mut turn = Standing { no_progress_claims: 0, ..standing(TurnStatus::Queued) };
    for _ in 0..5 {
        turn = next(&turn, Input::Claim, NOW).unwrap();
        assert_eq!(refuse_claim(&turn, 5, NOW), None);
    }
    let released = next(&turn, Input::Release, NOW).unwrap();
    assert_eq!(refuse_claim(&next(&released, Input::Claim, NOW).unwrap(), 5, NOW), None);
    let sixth = next(&turn, Input::Claim, NOW).unwrap();
    assert_eq!(refuse_claim(&sixth, 5, NOW), Some(FailCause::Poisoned));
    let advanced = next(&turn, Input::Advance, NOW).unwrap();
    assert_eq!(refuse_claim(&next(&advanced, Input::Claim, NOW).unwrap(), 5, NOW), None);
}

#[test]
fn a_claim_at_the_deadline_is_refused() {
    let turn = standing(TurnStatus::Running);
    assert_eq!(refuse_claim(&turn, 5, turn.deadline_at), Some(FailCause::DeadlineExceeded));
}
