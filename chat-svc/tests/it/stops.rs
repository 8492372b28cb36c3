//! Commands that still run of an ended turn are stopped by any live replica.

use std::time::Duration;

use chat_svc::{config::Config, domain::tool_call::CallStop};
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

/// Starts a turn with a command that runs for a minute, and waits until it runs.
async fn busy(plane: &Plane, tenant: &mut Tenant, session: &str) -> String {
    let turn = tenant.say(session, "run make").await.turn_id;
    until(&mut tenant.follow(&turn, "").await, "tool.call").await;
    plane.sandbox.arrival().await;
    turn
}

async fn cancel(tenant: &mut Tenant, turn: &str) {
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn.to_owned() }).await.unwrap();
}

/// The outcome of stopping the turn's first call, the number of tries, and whether another is due.
async fn stop_of(plane: &Plane, turn: &str) -> (Option<CallStop>, i32, bool) {
    let first = "SELECT stop, stop_tries, stop_due_at IS NOT NULL FROM tool_calls
                  WHERE turn_id = $1 AND step = 1";
    sqlx::query_as(first)
        .bind(turn.parse::<Uuid>().unwrap())
        .fetch_one(&mut plane.db.owner("chat").await)
        .await
        .unwrap()
}

async fn recorded(plane: &Plane, turn: &str) -> (CallStop, i32) {
    eventually("the stop is on record", async || {
        let (stop, tries, due) = stop_of(plane, turn).await;
        stop.map(|stop| {
            assert!(!due, "a stop on record is not tried again");
            (stop, tries)
        })
    })
    .await
}

#[tokio::test]
async fn canceling_a_turn_stops_its_command_once_on_all_replicas() {
    let mut plane = Plane::start().await;
    plane.add_replica(|_| {}).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Ended, 1));
    assert_eq!(plane.sandbox.stopped(), [format!("{turn}/1/1")]);
}

#[tokio::test]
async fn a_command_in_doubt_is_stopped_with_its_turn() {
    let plane = Plane::start().await;
    plane.sandbox.stay_running();
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
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Ended, 1));
    assert!(plane.sandbox.stopped().contains(&format!("{turn}/1/1")));
}

#[tokio::test]
async fn what_an_erasure_ended_is_stopped_when_it_is_called_back() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    let id = PurgeId::new();
    let at = |epoch| step(id, epoch, &tenant, Some(&session));
    purge.freeze(FreezeRequest { step: at(1) }).await.unwrap();
    // Ten rounds of the stopper: a frozen session is left alone.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stop_of(&plane, &turn).await, (None, 0, true));
    purge.thaw(ThawRequest { step: at(2) }).await.unwrap();
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Ended, 1));
}

#[tokio::test]
async fn a_sandbox_that_never_answers_is_not_asked_endlessly() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    eventually("one try failed", async || (stop_of(&plane, &turn).await.1 >= 1).then_some(())).await;
    // As if it had been so for ten minutes.
    sqlx::query("UPDATE tool_calls SET stop_tries = 15, stop_due_at = now() WHERE turn_id = $1")
        .bind(turn.parse::<Uuid>().unwrap())
        .execute(&mut plane.db.owner("chat").await)
        .await
        .unwrap();
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Unanswered, 16));
}

#[tokio::test]
async fn a_newer_input_that_interrupts_a_turn_stops_its_command() {
    let plane = Plane::start().await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session_with(InputPolicy::Interrupt, "").await;
    let turn = busy(&plane, &mut tenant, &session).await;
    let next = tenant.say(&session, "say fine").await.turn_id;
    assert_eq!(tenant.wait(&next).await.status(), TurnStatus::Completed);
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Ended, 1));
}

#[tokio::test]
async fn a_turn_that_runs_out_of_time_stops_its_command() {
    let plane = Plane::with(|config| config.turns.deadline = Duration::from_secs(2)).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    assert_eq!(tenant.wait(&turn).await.cause, "DEADLINE_EXCEEDED");
    assert_eq!(recorded(&plane, &turn).await, (CallStop::Ended, 1));
}

#[tokio::test]
async fn a_call_that_never_arrived_never_will() {
    let plane = Plane::start().await;
    plane.sandbox.swallow(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    assert_eq!(recorded(&plane, &turn).await, (CallStop::NeverRan, 1));
    assert_eq!(plane.sandbox.ran().len(), 0);
}

#[tokio::test]
async fn a_live_replica_keeps_stopping_until_the_sandbox_answers() {
    // The worker may be killed while it stops a call: another one does so 13 s later.
    let briefly = |config: &mut Config| config.sandbox.call_margin = Duration::from_secs(1);
    let mut plane = Plane::with(briefly).await;
    plane.sandbox.commands_take(Duration::from_secs(60));
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = busy(&plane, &mut tenant, &session).await;
    cancel(&mut tenant, &turn).await;
    eventually("one try failed", async || (stop_of(&plane, &turn).await.1 >= 1).then_some(())).await;
    plane.kill(0);
    plane.add_replica(briefly).await;
    plane.sandbox.mute(false);
    let (stop, tries) = recorded(&plane, &turn).await;
    assert_eq!(stop, CallStop::Ended);
    assert!((2..=6).contains(&tries), "tried {tries} times");
}

#[tokio::test]
async fn a_completed_turn_stops_no_command() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    let turn = tenant.messages(&session).await[0].turn_id.clone();
    // Ten rounds of the stopper.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stop_of(&plane, &turn).await, (None, 0, false));
    assert!(plane.sandbox.stopped().is_empty());
}
