//! Tests takeovers: a worker is killed at each fail point, and another one continues its turn from the last
//! committed step.

use std::time::{Duration, Instant};

use futures::StreamExt;
use steward_proto::chat::v1::TurnStatus;
use svc_core::run::{failpoint, lifecycle::Outcome};

use crate::plane::{
    Carries, Event, Plane, Tenant, assert_whole, count, eventually, kinds, until, visible_text,
};

/// A plane in which the first replica reached a fail point and was killed. `heir` is a client of the second
/// replica; `events` were read from the first replica until it was killed, then from the second.
struct Taken {
    plane: Plane,
    heir: Tenant,
    session: String,
    turn: String,
    events: Vec<Event>,
}

impl Plane {
    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.db.owner("chat").await).await.unwrap()
    }
}

async fn take_over_at(point: &str, input: &str, there: &'static str) -> Taken {
    failpoint::arm(&format!("{point}=sleep:600000@1")).unwrap();
    let mut plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, input).await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    let mut seen = Vec::new();
    eventually("the worker is at the point", async || {
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), stream.next()).await {
            seen.push(event.unwrap().event());
        }
        (plane.number(there).await > 0).then_some(())
    })
    .await;
    // Lets committed events reach the client; the other events are lost with the process.
    tokio::time::sleep(Duration::from_millis(200)).await;
    plane.kill(0);
    let killed = Instant::now();
    while let Some(Ok(event)) = stream.next().await {
        seen.push(event.event());
    }
    let replica = plane.add_replica(|_| {}).await;
    let mut heir = plane.tenant_at(replica, tenant.account);
    let after = seen.last().map(|event| event.id.clone()).unwrap_or_default();
    seen.extend(heir.events(&turn, &after).await);
    assert!(killed.elapsed() < Duration::from_secs(15));
    assert_whole(&seen);
    assert_eq!(seen, heir.events(&turn, "").await, "seen events are replayed byte for byte");
    let record = heir.turn(&turn).await;
    assert_eq!((record.status(), record.attempts), (TurnStatus::Completed, 2), "{:?}", kinds(&seen));
    assert_eq!(count(&seen, "turn.started"), 1);
    Taken { plane, heir, session, turn, events: seen }
}

const CLAIMED: &str = "SELECT count(*) FROM turns WHERE status = 'running'";
const SPOKEN: &str = "SELECT count(*) FROM turn_events";
const INTENDED: &str = "SELECT count(*) FROM tool_calls";
const DISPATCHED: &str = "SELECT count(*) FROM tool_calls WHERE state = 'dispatched'";
const ASKED: &str = "SELECT count(*) FROM turn_events WHERE kind = 'text.delta'";

#[tokio::test]
async fn a_worker_killed_after_its_claim_is_replaced() {
    let taken = take_over_at("chat.turn.claimed", "say still here", CLAIMED).await;
    assert_eq!(visible_text(&taken.events).trim(), "still here");
}

#[tokio::test]
async fn a_worker_killed_after_a_journal_commit_is_replaced() {
    let taken = take_over_at("chat.journal.committed", "say still here", SPOKEN).await;
    assert_eq!(visible_text(&taken.events).trim(), "still here");
}

#[tokio::test]
async fn an_intended_call_that_was_not_sent_is_made_once() {
    let taken = take_over_at("chat.tool.intended", "run make", INTENDED).await;
    assert_eq!(taken.plane.sandbox.ran().len(), 1);
    assert_eq!((count(&taken.events, "tool.call"), count(&taken.events, "tool.result")), (1, 1));
    assert_eq!(count(&taken.events, "reset"), 0, "a committed step is never void");
}

#[tokio::test]
async fn a_call_that_may_have_been_sent_is_resolved_first() {
    let taken = take_over_at("chat.tool.dispatched", "run make", DISPATCHED).await;
    // The call did not arrive: its key is abandoned, and the call was made under the next one.
    assert_eq!(taken.plane.sandbox.ran(), [format!("{}/1/1/2", taken.turn)]);
    assert_eq!((count(&taken.events, "tool.call"), count(&taken.events, "tool.result")), (1, 1));
}

#[tokio::test]
async fn a_call_that_ran_before_its_worker_died_is_adopted() {
    let taken = take_over_at("chat.tool.returned", "run make", DISPATCHED).await;
    assert_eq!(taken.plane.sandbox.ran(), [format!("{}/1/1", taken.turn)], "it ran once");
    let result = taken.events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert!(result["content"].as_str().unwrap().contains("ran sh -c make"), "{result}");
}

#[tokio::test]
async fn a_worker_killed_while_ending_the_turn_is_replaced() {
    let mut taken = take_over_at("chat.turn.finishing", "say the end", ASKED).await;
    // The step's answer was visible but not stored, so it is void and the step starts again.
    assert_eq!(count(&taken.events, "reset"), 1);
    assert_eq!(visible_text(&taken.events).trim(), "the end");
    let messages = taken.heir.messages(&taken.session).await;
    assert_eq!(messages.len(), 2, "one answer is stored");
    assert_eq!(messages[1].text, visible_text(&taken.events));
    // The lost attempt has unknown usage, the second attempt has known usage.
    let unknown = taken.plane.number("SELECT count(*) FROM usage_ledger WHERE unknown").await;
    let settled = taken.plane.number("SELECT count(*) FROM usage_ledger").await;
    assert_eq!((unknown, settled), (1, 2));
}

#[tokio::test]
async fn a_lost_workers_open_step_is_void_its_commits_stay() {
    failpoint::arm("").unwrap();
    let mut plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "run make then count to 100 every 10ms").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    let mut seen = until(&mut stream, "tool.result").await;
    seen.extend(until(&mut stream, "text.delta").await);
    plane.kill(0);
    let replica = plane.add_replica(|_| {}).await;
    let mut heir = plane.tenant_at(replica, tenant.account);
    let events = heir.events(&turn, "").await;
    assert_whole(&events);
    assert_eq!(events[..seen.len()], seen[..]);
    assert_eq!(plane.sandbox.ran().len(), 1, "the committed step is not done again");
    let reset = events.iter().find(|event| event.kind == "reset").unwrap().json();
    assert_eq!(reset["cause"], "TAKEOVER");
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap();
    assert!(reset["from_seq"].as_i64().unwrap() > result.seq());
}

#[tokio::test]
async fn a_replica_that_stops_hands_its_turns_over_at_once() {
    let mut plane = Plane::empty().await;
    for _ in 0..2 {
        // The lease is so long that no worker can take the turn over by waiting for its expiry.
        plane.add_replica(|config| config.own.worker.lease_ttl = Duration::from_secs(60)).await;
    }
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "count to 200 every 10ms").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    until(&mut stream, "text.delta").await;
    let owner: String = sqlx::query_scalar("SELECT lease_owner FROM turns")
        .fetch_one(&mut plane.db.owner("chat").await)
        .await
        .unwrap();
    let stopped = Instant::now();
    // Either replica may run the turn; if the second one does, this stop has no effect on the turn.
    let outcome = plane.stop(0).await;
    assert_eq!(outcome, Outcome::Clean);
    let mut other = plane.tenant_at(1, tenant.account);
    let record = other.wait(&turn).await;
    assert_eq!(record.status(), TurnStatus::Completed);
    assert!(stopped.elapsed() < Duration::from_secs(15));
    assert_whole(&other.events(&turn, "").await);
    let barren = plane.number("SELECT max(barren_claims)::bigint FROM turns").await;
    assert!(barren <= 1, "a handover is not a failure: {barren} ({owner})");
}

#[tokio::test]
async fn a_turn_that_kills_its_workers_fails() {
    failpoint::arm("chat.turn.claimed=sleep:600000@1").unwrap();
    let mut plane = Plane::with(|config| config.own.worker.max_barren_claims = 1).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "say hi").await.turn_id;
    eventually("it is claimed", async || (plane.number(CLAIMED).await > 0).then_some(())).await;
    plane.kill(0);
    let replica = plane.add_replica(|config| config.own.worker.max_barren_claims = 1).await;
    let mut heir = plane.tenant_at(replica, tenant.account);
    let record = heir.wait(&turn).await;
    assert_eq!((record.status(), record.cause.as_str()), (TurnStatus::Failed, "POISONED"));
    let next = heir.say(&session, "say next").await.turn_id;
    assert_eq!(heir.wait(&next).await.status(), TurnStatus::Completed, "the session takes turns again");
}

#[tokio::test]
async fn a_slow_worker_keeps_a_turn_that_was_not_taken_over() {
    // The lease is so short that the replica may renew it too late. No other worker can take the turn over,
    // and this one has no free slot.
    let plane = Plane::with(|config| {
        config.own.worker.lease_ttl = Duration::from_millis(200);
        config.own.worker.renew_period = Duration::from_millis(100);
        config.own.worker.max_running = 1;
    })
    .await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "count to 100 every 10ms").await.turn_id;
    let record = tenant.wait(&turn).await;
    assert_eq!((record.status(), record.attempts), (TurnStatus::Completed, 1));
}

#[tokio::test]
async fn one_accounts_turns_leave_slots_for_another() {
    let plane = Plane::with(|config| {
        (config.own.worker.max_running, config.own.worker.max_running_per_account) = (3, 2);
        config.own.worker.scan_period = Duration::from_millis(100);
    })
    .await;
    let (mut busy, mut neighbour) = (plane.tenant(), plane.tenant());
    let mut turns = Vec::new();
    for _ in 0..5 {
        let session = busy.session().await;
        turns.push(busy.say(&session, "count to 40 every 50ms").await.turn_id);
    }
    let session = neighbour.session().await;
    let asked = Instant::now();
    let turn = neighbour.say(&session, "say at once").await.turn_id;
    assert_eq!(neighbour.wait(&turn).await.status(), TurnStatus::Completed);
    assert!(
        asked.elapsed() < Duration::from_millis(1500),
        "waited {:?} behind the other account",
        asked.elapsed()
    );
    let mut waiting = 0;
    for turn in &turns {
        waiting += usize::from(busy.turn(turn).await.status() == TurnStatus::Queued);
    }
    assert_eq!(waiting, 3);
    for turn in &turns {
        assert_eq!(busy.wait(turn).await.status(), TurnStatus::Completed);
    }
}
