//! Tests turns: their events and messages, the session's input policy, cancels and deadlines.

use std::time::Duration;

use chat_svc::{Config, testing::ModelSection};
use futures::StreamExt;
use steward_proto::chat::v1::{
    CancelTurnRequest, CreateTurnRequest, InputPolicy, ListTurnsRequest, MessageRole, RunTurnRequest, Turn,
    TurnStatus,
};
use svc_core::{error::reason_of, wire::principal::Principal};
use tonic::Code;

use crate::plane::{Plane, all, assert_whole, count, eventually, keyed, kinds, until, visible_text};

#[tokio::test]
async fn a_turn_streams_its_events_and_stores_its_messages() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "say good morning").await;
    assert_whole(&events);
    assert_eq!(kinds(&events)[..2], ["turn.started", "step.started"]);
    assert_eq!(visible_text(&events).trim(), "good morning");
    assert_eq!(count(&events, "usage"), 1);
    let last = events.last().unwrap().json();
    assert_eq!(last["finish_reason"], "end_turn");

    let messages = tenant.messages(&session).await;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1].message_id, last["message_id"].as_str().unwrap());
    assert_eq!(messages[1].text.trim(), "good morning");
    let turn = tenant.turn(&messages[1].turn_id).await;
    assert_eq!((turn.status(), turn.attempts), (TurnStatus::Completed, 1));
    assert_eq!(turn.last_event_id, events.last().unwrap().id);
    assert!(turn.started_at.is_some() && turn.ended_at.is_some() && turn.cause.is_empty());
}

#[tokio::test]
async fn a_model_reads_earlier_turns() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    tenant.run(&session, "remember the milk").await;
    let events = tenant.run(&session, "what did I say?").await;
    assert!(visible_text(&events).contains("the milk"), "{}", visible_text(&events));
}

#[tokio::test]
async fn a_repeated_request_creates_one_turn() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let request = RunTurnRequest { session_id: session.clone(), input: "say once".to_owned() };
    let first = all(tenant.client.run_turn(keyed("k", request.clone())).await.unwrap().into_inner()).await;
    let second = all(tenant.client.run_turn(keyed("k", request)).await.unwrap().into_inner()).await;
    assert_eq!(first, second, "byte for byte");
    assert_eq!(tenant.messages(&session).await.len(), 2);
    let other = CreateTurnRequest { session_id: session, input: "say once".to_owned() };
    // The same key with another method is another request.
    assert!(tenant.client.create_turn(keyed("k", other)).await.is_ok());
}

#[tokio::test]
async fn queued_inputs_run_one_after_the_other() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let mut turns = Vec::new();
    for number in 0..4 {
        turns.push(tenant.say(&session, &format!("say number {number}")).await.turn_id);
    }
    for turn in &turns {
        assert_eq!(tenant.wait(turn).await.status(), TurnStatus::Completed);
    }
    let texts: Vec<_> =
        tenant.messages(&session).await.iter().map(|message| message.text.trim().to_owned()).collect();
    let want: Vec<_> = (0..4).flat_map(|n| [format!("say number {n}"), format!("number {n}")]).collect();
    assert_eq!(texts, want, "answers are in order");
    let listed = ListTurnsRequest { session_id: session, ..Default::default() };
    let listed = tenant.client.list_turns(listed).await.unwrap().into_inner().turns;
    turns.reverse();
    assert_eq!(listed.into_iter().map(|turn| turn.turn_id).collect::<Vec<_>>(), turns);
}

#[tokio::test]
async fn a_rejecting_session_takes_one_input_at_a_time() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session_with(InputPolicy::Reject, "").await;
    let first = tenant.say(&session, "count to 100 every 20ms").await;
    let refused = tenant.try_say(&session, "say now").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused).as_deref(), Some("TURN_IN_FLIGHT"));
    let cancel = CancelTurnRequest { turn_id: first.turn_id };
    tenant.client.cancel_turn(cancel).await.unwrap();
    assert!(tenant.try_say(&session, "say now").await.is_ok());
}

#[tokio::test]
async fn an_interrupted_turn_ends_and_keeps_its_text() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session_with(InputPolicy::Interrupt, "").await;
    let first = tenant.say(&session, "count to 500 every 10ms").await.turn_id;
    let mut stream = tenant.follow(&first, "").await;
    until(&mut stream, "text.delta").await;
    let second = tenant.say(&session, "say something else").await.turn_id;
    let rest = all(stream).await;
    assert_eq!(rest.last().unwrap().kind, "turn.canceled");
    assert_eq!(rest.last().unwrap().json()["cause"], "INTERRUPTED");
    assert_eq!(tenant.wait(&second).await.status(), TurnStatus::Completed);
    let messages = tenant.messages(&session).await;
    assert_eq!(messages.len(), 4);
    let whole = tenant.events(&first, "").await;
    assert_eq!(messages[1].text, visible_text(&whole), "the visible text is stored");
    assert!(!messages[1].text.is_empty());
}

#[tokio::test]
async fn an_input_to_a_full_queue_is_refused() {
    let plane = Plane::with(|config| {
        config.own.turns.max_open = 2;
        config.own.worker.max_running = 0;
    })
    .await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    for _ in 0..2 {
        tenant.say(&session, "say hi").await;
    }
    let full = tenant.try_say(&session, "say hi").await.unwrap_err();
    assert_eq!(
        (full.code(), reason_of(&full).as_deref()),
        (Code::ResourceExhausted, Some("TURN_QUEUE_FULL"))
    );
}

#[tokio::test]
async fn canceling_keeps_the_text_and_stops_the_worker() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "count to 1000 every 10ms").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    until(&mut stream, "text.delta").await;
    let canceled =
        tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn.clone() }).await.unwrap().into_inner();
    let canceled = canceled.turn.unwrap();
    assert_eq!((canceled.status(), canceled.cause.as_str()), (TurnStatus::Canceled, "USER"));
    all(stream).await;
    let events = tenant.events(&turn, "").await;
    assert_whole(&events);
    let messages = tenant.messages(&session).await;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1].text, visible_text(&events));
    // No event follows the last one.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(tenant.events(&turn, "").await, events);
    // A second cancel is no error; a completed turn cannot be canceled.
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn }).await.unwrap();
    let done = tenant.say(&session, "say done").await.turn_id;
    tenant.wait(&done).await;
    let late = tenant.client.cancel_turn(CancelTurnRequest { turn_id: done }).await.unwrap_err();
    assert_eq!(reason_of(&late).as_deref(), Some("TURN_FINAL"));
}

#[tokio::test]
async fn a_queued_turn_is_canceled_without_ever_running() {
    let plane = Plane::with(|config| config.own.worker.max_running = 0).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "say hi").await.turn_id;
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn.clone() }).await.unwrap();
    let events = tenant.events(&turn, "").await;
    assert_eq!(kinds(&events), ["turn.canceled"]);
    assert_eq!(tenant.turn(&turn).await.attempts, 0);
}

#[tokio::test]
async fn a_repeated_cancel_answers_the_same_turn() {
    let plane = Plane::with(|config| config.own.worker.max_running = 0).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let (first, second) = (tenant.say(&session, "say hi").await, tenant.say(&session, "say ho").await);
    let cancel = |turn: &Turn| keyed("k", CancelTurnRequest { turn_id: turn.turn_id.clone() });
    let canceled = tenant.client.cancel_turn(cancel(&first)).await.unwrap().into_inner().turn.unwrap();
    assert_eq!(canceled.status(), TurnStatus::Canceled);
    let again = tenant.client.cancel_turn(cancel(&first)).await.unwrap().into_inner().turn.unwrap();
    assert_eq!(again, canceled);
    let reused = tenant.client.cancel_turn(cancel(&second)).await.unwrap_err();
    assert_eq!(reason_of(&reused).as_deref(), Some("IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(tenant.turn(&second.turn_id).await.status(), TurnStatus::Queued);
}

#[tokio::test]
async fn turns_are_listed_by_status() {
    let plane = Plane::with(|config| config.own.worker.max_running = 0).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(tenant.say(&session, "say hi").await.turn_id);
    }
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turns[1].clone() }).await.unwrap();
    let mut listed = async |status: TurnStatus, page_size, page_token: &str| {
        let request = ListTurnsRequest {
            session_id: session.clone(),
            page_size,
            page_token: page_token.to_owned(),
            status: status.into(),
        };
        let page = tenant.client.list_turns(request).await.unwrap().into_inner();
        let ids: Vec<_> = page.turns.into_iter().map(|turn| turn.turn_id).collect();
        (ids, page.next_page_token)
    };
    assert_eq!(listed(TurnStatus::Canceled, 0, "").await.0, [turns[1].clone()]);
    assert!(listed(TurnStatus::Completed, 0, "").await.0.is_empty());
    assert_eq!(listed(TurnStatus::Unspecified, 0, "").await.0.len(), 3);
    let (first, token) = listed(TurnStatus::Queued, 1, "").await;
    assert_eq!(first, [turns[2].clone()]);
    assert_eq!(listed(TurnStatus::Queued, 1, &token).await.0, [turns[0].clone()]);
}

#[tokio::test]
async fn a_turn_fails_at_its_deadline() {
    let plane = Plane::with(|config| config.own.turns.deadline = Duration::from_millis(500)).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "count to 1000 every 20ms").await;
    assert_whole(&events);
    let last = events.last().unwrap().json();
    assert_eq!(
        (last["type"].as_str(), last["cause"].as_str()),
        (Some("turn.failed"), Some("DEADLINE_EXCEEDED"))
    );
    let messages = tenant.messages(&session).await;
    assert_eq!(messages[1].text, visible_text(&events), "the partial answer is stored");
}

#[tokio::test]
async fn a_model_that_fails_before_any_text_is_retried_silently() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "fail busy").await;
    assert_whole(&events);
    let last = events.last().unwrap().json();
    assert_eq!(
        (last["type"].as_str(), last["cause"].as_str()),
        (Some("turn.failed"), Some("MODEL_UNAVAILABLE"))
    );
    assert_eq!(count(&events, "step.started"), 3, "one call and two retries");
    assert_eq!(count(&events, "usage"), 3, "each attempt is settled once");
    assert_eq!(count(&events, "reset"), 0);
    assert!(events.iter().filter(|e| e.kind == "usage").all(|e| e.json()["unknown"] == true));
}

/// Adds a second demo model to the default route; both models fail in the same way. `prefill` is whether the
/// second one can continue the first one's text.
fn two_models(prefill: bool) -> impl FnOnce(&mut Config) {
    move |config| {
        let demo = ModelSection::Demo { pace: Duration::from_millis(1), prefill: Some(prefill) };
        config.own.models.insert("other".to_owned(), demo);
        config.own.routes.insert("default".to_owned(), vec!["demo".to_owned(), "other".to_owned()]);
    }
}

#[tokio::test]
async fn the_text_of_a_model_that_breaks_off_is_void() {
    let plane = Plane::with(two_models(false)).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "fail cut after 3 words").await;
    assert_whole(&events);
    let reset = events.iter().find(|event| event.kind == "reset").unwrap().json();
    assert_eq!((reset["cause"].as_str(), reset["attempt"].as_i64()), (Some("MODEL_STREAM_CUT"), Some(2)));
    let started: Vec<_> = events.iter().filter(|event| event.kind == "step.started").collect();
    assert_eq!(reset["from_seq"].as_i64(), Some(started[0].seq()));
    assert_eq!(started[1].json()["model"], "other");
    assert_eq!(events.last().unwrap().json()["cause"], "MODEL_STREAM_CUT");
    assert_eq!(count(&events, "usage"), 2, "each attempt is settled once");
    let messages = tenant.messages(&session).await;
    assert_eq!(messages[1].text, visible_text(&events), "only valid text is stored");
}

#[tokio::test]
async fn a_model_with_prefill_continues_anothers_text() {
    let plane = Plane::with(two_models(true)).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "fail cut after 3 words").await;
    assert_whole(&events);
    let splice = events.iter().find(|event| event.kind == "splice").unwrap().json();
    assert_eq!((splice["from_model"].as_str(), splice["to_model"].as_str()), (Some("demo"), Some("other")));
    assert_eq!((count(&events, "reset"), count(&events, "step.started")), (0, 1));
    let before: String = events
        .iter()
        .take_while(|event| event.kind != "splice")
        .filter(|event| event.kind == "text.delta")
        .map(|event| event.json()["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(splice["kept_bytes"].as_u64(), Some(before.len() as u64));
}

#[tokio::test]
async fn an_empty_answer_is_a_failure() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "fail empty").await;
    assert_eq!(events.last().unwrap().json()["cause"], "MODEL_EMPTY_TURN");
    assert_eq!(tenant.messages(&session).await.len(), 1);
}

#[tokio::test]
async fn a_silent_model_is_a_failure() {
    let plane = Plane::with(|config| config.own.native.progress_timeout = Duration::from_millis(300)).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "fail stall after 2 words").await;
    assert_eq!(events.last().unwrap().json()["cause"], "MODEL_STALLED");
}

#[tokio::test]
async fn turns_run_without_redis() {
    let mut plane = Plane::empty().await;
    // There is no Redis at this address.
    let nowhere = "redis://127.0.0.1:9/";
    for _ in 0..2 {
        plane.add_replica(|config| config.base.redis.url = nowhere.to_owned().into()).await;
    }
    let mut here = plane.tenant();
    let session = here.session().await;
    let turn = here.say(&session, "count to 20 every 10ms").await.turn_id;
    let mut there = plane.tenant_at(1, here.account);
    let (near, far) = (here.events(&turn, "").await, there.events(&turn, "").await);
    assert_whole(&near);
    assert_eq!(near, far);
}

#[tokio::test]
async fn a_service_without_an_account_has_no_sessions() {
    let plane = Plane::start().await;
    let caller = plane.stating(Principal::service("registry-svc", None));
    let mut client = steward_proto::chat::v1::chat_service_client::ChatServiceClient::new(caller);
    let status =
        client.create_session(steward_proto::chat::v1::CreateSessionRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn leaving_the_stream_does_not_stop_the_turn() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let request = RunTurnRequest { session_id: session.clone(), input: "count to 30 every 10ms".to_owned() };
    let mut stream = tenant.client.run_turn(request).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap().event.unwrap();
    drop(stream);
    let turn = first.id.split(':').next().unwrap().to_owned();
    assert_eq!(tenant.wait(&turn).await.status(), TurnStatus::Completed);
    let messages = eventually("the answer is there", async || {
        Some(tenant.messages(&session).await).filter(|messages| messages.len() == 2)
    })
    .await;
    assert_eq!(messages[1].role(), MessageRole::Assistant);
}
