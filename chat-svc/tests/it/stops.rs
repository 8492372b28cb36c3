//! Tests that calls of an ended turn are stopped, by any replica that runs.

use std::time::Duration;

use chat_svc::{Config, testing::StopOutcome};
use steward_proto::{
    chat::v1::{CancelTurnRequest, InputPolicy, TurnStatus},
    custody::v1::{FreezeRequest, ThawRequest},
};
use svc_core::id::PurgeId;
use uuid::Uuid;

use crate::{
    custody::step,
    plane::{Plane, Tenant, eventually, until},
};

/// Starts a turn that calls a command, and waits until the call has arrived at the fake sandbox-svc.
async fn busy(plane: &Plane, tenant: &mut Tenant, session: &str) -> String {
    let turn = tenant.say(session, "run make").await.turn_id;
    until(&mut tenant.follow(&turn, "").await, "tool.call").await;
    plane.sandbox.arrival().await;
    turn
}

async fn cancel(tenant: &mut Tenant, turn: &str) {
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn.to_owned() }).await.unwrap();
}

/// Returns the stop of the turn's first call: outcome, attempts, and whether another attempt is due.
async fn stop_of(plane: &Plane, turn: &str) -> (Option<StopOutcome>, i32, bool) {
    let first = "SELECT stop, stop_tries, stop_due_at IS NOT NULL FROM tool_calls
                  WHERE turn_id = $1 AND step = 1";
    sqlx::query_as(first)
        .bind(turn.parse::<Uuid>().unwrap())
        .fetch_one(&mut plane.db.owner("chat").await)
        .await
        .unwrap()
}

async fn recorded(plane: &Plane, turn: &str) -> (StopOutcome, i32) {
    eventually("the stop is recorded", async || {
        let (stop, tries, due) = stop_of(plane, turn).await;
        stop.map(|stop| {
            assert!(!due, "a recorded stop is not repeated");
            (stop, tries)
        })
    })
    .await
}

#[tokio::test]
async fn canceling_a_turn_stops_its_command_once() {
    let mut plane = Plane::start().await;
    plane.add_replica(|_| {}).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Ended, 1));
    assert_eq!(plane.sandbox.stopped(), [format!("{turn}/1/1")]);
}

#[tokio::test]
async fn a_command_in_doubt_is_stopped_with_its_turn() {
    let plane = Plane::start().await;
    plane.sandbox.run_endlessly();
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "run make then run more").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    let seen = until(&mut stream, "tool.result").await;
    assert_eq!(seen.last().unwrap().json()["in_doubt"], true);
    until(&mut stream, "tool.call").await;
    plane.sandbox.mute(false);
    cancel(&mut tenant, &turn).await;
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Ended, 1));
    assert!(plane.sandbox.stopped().contains(&format!("{turn}/1/1")));
}

#[tokio::test]
async fn calls_of_a_withdrawn_erasure_are_stopped() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    let id = PurgeId::new();
    let at = |epoch| step(id, epoch, &tenant, Some(&session));
    purge.freeze(FreezeRequest { step: at(1) }).await.unwrap();
    // Waits ten periods of the stop worker: it skips a frozen session.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stop_of(&plane, &turn).await, (None, 0, true));
    purge.thaw(ThawRequest { step: at(2) }).await.unwrap();
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Ended, 1));
}

#[tokio::test]
async fn an_unanswered_stop_ends_after_its_last_attempt() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    eventually("an attempt failed", async || (stop_of(&plane, &turn).await.1 >= 1).then_some(())).await;
    // Sets the row to its state after ten minutes.
    sqlx::query("UPDATE tool_calls SET stop_tries = 15, stop_due_at = now() WHERE turn_id = $1")
        .bind(turn.parse::<Uuid>().unwrap())
        .execute(&mut plane.db.owner("chat").await)
        .await
        .unwrap();
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Unanswered, 16));
}

#[tokio::test]
async fn an_interrupting_input_stops_the_command() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session_with(InputPolicy::Interrupt, "").await;
    let turn = busy(&plane, &mut tenant, &session).await;
    let next = tenant.say(&session, "say fine").await.turn_id;
    assert_eq!(tenant.wait(&next).await.status(), TurnStatus::Completed);
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Ended, 1));
}

#[tokio::test]
async fn a_turn_at_its_deadline_stops_its_command() {
    let plane = Plane::with(|config| config.own.turns.deadline = Duration::from_secs(2)).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    assert_eq!(tenant.wait(&turn).await.cause, "DEADLINE_EXCEEDED");
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::Ended, 1));
}

#[tokio::test]
async fn a_stopped_call_that_did_not_arrive_never_runs() {
    let plane = Plane::start().await;
    plane.sandbox.swallow(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    assert_eq!(recorded(&plane, &turn).await, (StopOutcome::NeverRan, 1));
    assert_eq!(plane.sandbox.ran().len(), 0);
}

#[tokio::test]
async fn another_replica_repeats_an_unanswered_stop() {
    // If the replica is killed during an attempt, another one can claim the stop 13 s later: STOP_WAIT (2 s),
    // the margin of the call (1 s), and the margin of the claim (10 s).
    let briefly = |config: &mut Config| config.own.sandbox.call_margin = Duration::from_secs(1);
    let mut plane = Plane::with(briefly).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    eventually("an attempt failed", async || (stop_of(&plane, &turn).await.1 >= 1).then_some(())).await;
    plane.kill(0);
    plane.add_replica(briefly).await;
    plane.sandbox.mute(false);
    let (stop, tries) = recorded(&plane, &turn).await;
    assert_eq!(stop, StopOutcome::Ended);
    assert!((2..=6).contains(&tries), "{tries} attempts");
}

#[tokio::test]
async fn a_completed_turn_has_nothing_to_stop() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    let turn = tenant.messages(&session).await[0].turn_id.clone();
    // Waits ten periods of the stop worker.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stop_of(&plane, &turn).await, (None, 0, false));
    assert!(plane.sandbox.stopped().is_empty());
}
