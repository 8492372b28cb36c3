//! Tests tool calls: they are journaled before they are sent, are executed at most once, and are in doubt if
//! no service knows whether they ran.

use std::time::Duration;

use steward_proto::chat::v1::{CancelTurnRequest, MessageRole, TurnStatus};

use crate::plane::{Plane, assert_whole, count, kinds, until, visible_text};

#[tokio::test]
async fn a_model_runs_a_command_and_answers_with_its_output() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run uname -a").await;
    assert_whole(&events);
    let call = events.iter().find(|event| event.kind == "tool.call").unwrap().json();
    assert_eq!((call["name"].as_str(), call["call"].as_i64()), (Some("shell"), Some(1)));
    assert_eq!(call["arguments"]["command"], "uname -a");
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert_eq!(result["is_error"], false);
    assert!(result["content"].as_str().unwrap().contains("ran sh -c uname -a"), "{result}");
    assert!(visible_text(&events).contains("uname"), "{}", visible_text(&events));
    assert_eq!(count(&events, "usage"), 2);

    let messages = tenant.messages(&session).await;
    let roles: Vec<_> = messages.iter().map(|message| message.role()).collect();
    assert_eq!(roles, [MessageRole::User, MessageRole::Assistant, MessageRole::Tool, MessageRole::Assistant]);
    let turn = &messages[0].turn_id;
    assert_eq!(plane.sandbox.ran(), [format!("{turn}/1/1")]);
}

#[tokio::test]
async fn every_built_in_tool_reaches_the_sandbox() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    for (input, name, part) in [
        ("read notes.txt", "read_file", "content of notes.txt"),
        ("write notes.txt abc", "write_file", "notes.txt"),
        ("list", "list_files", "notes.txt"),
    ] {
        let events = tenant.run(&session, input).await;
        let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
        assert_eq!(result["name"], name);
        assert!(result["content"].as_str().unwrap().contains(part), "{result}");
        assert_eq!(events.last().unwrap().kind, "turn.completed");
    }
    assert_eq!(plane.sandbox.ran().len(), 1, "only a call with an effect has a key");
}

#[tokio::test]
async fn steps_follow_each_other_until_the_model_answers() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run one then run two").await;
    assert_whole(&events);
    assert_eq!((count(&events, "tool.call"), count(&events, "step.started")), (2, 3));
    assert_eq!(plane.sandbox.ran().len(), 2);
}

#[tokio::test]
async fn a_turn_fails_at_its_step_limit() {
    let plane = Plane::with(|config| config.own.native.max_steps = 2).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run one then run two then run three").await;
    assert_eq!(events.last().unwrap().json()["cause"], "STEP_LIMIT");
    assert_eq!(plane.sandbox.ran().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_resolved_and_the_call_not_repeated() {
    let plane = Plane::start().await;
    plane.sandbox.lose_answers(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    assert_whole(&events);
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 1);
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert!(result["content"].as_str().unwrap().contains("ran sh -c make"), "{result}");
    assert_eq!(result["in_doubt"], false);
}

#[tokio::test]
async fn an_unresolved_call_is_in_doubt_and_not_repeated() {
    let plane = Plane::start().await;
    plane.sandbox.lose_answers(true);
    plane.sandbox.mute(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert_eq!((result["in_doubt"].as_bool(), result["is_error"].as_bool()), (Some(true), Some(true)));
    assert_eq!(events.last().unwrap().kind, "turn.completed", "{:?}", kinds(&events));
    assert_eq!(plane.sandbox.ran().len(), 1);
}

#[tokio::test]
async fn a_call_that_still_runs_is_waited_for() {
    let plane = Plane::with(|config| config.own.sandbox.resolve_timeout = Duration::from_millis(100)).await;
    plane.sandbox.commands_take(Duration::from_millis(800));
    plane.sandbox.lose_answers(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 1);
}

#[tokio::test]
async fn a_call_still_running_after_its_timeout_is_in_doubt() {
    let plane = Plane::start().await;
    plane.sandbox.run_endlessly();
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "write notes.txt abc").await;
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert_eq!(result["in_doubt"], true, "{result}");
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 1);
    // The worker asked for two seconds, with a pause of 50 ms after every answer.
    let asked = plane.sandbox.asked();
    assert!((2..=45).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn a_call_that_never_starts_is_sent_again_a_few_times() {
    let plane = Plane::start().await;
    plane.sandbox.forget();
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert_eq!((result["in_doubt"].as_bool(), result["is_error"].as_bool()), (Some(false), Some(true)));
    assert!(result["content"].as_str().unwrap().contains("was not carried out"), "{result}");
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 0);
    // The worker tried for two seconds, with a pause of 50 ms after each attempt.
    let asked = plane.sandbox.asked();
    assert!((6..=45).contains(&asked), "resolved {asked} times");
}

#[tokio::test]
async fn canceling_during_a_call_leaves_it_in_doubt() {
    let plane = Plane::start().await;
    plane.sandbox.swallow(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, "run make").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    until(&mut stream, "tool.call").await;
    plane.sandbox.arrival().await;
    tenant.client.cancel_turn(CancelTurnRequest { turn_id: turn.clone() }).await.unwrap();
    until(&mut stream, "turn.canceled").await;
    let messages = tenant.messages(&session).await;
    let tool = messages.iter().find(|message| message.role() == MessageRole::Tool).unwrap();
    let part = &tool.parts[0].fields["content"];
    assert!(format!("{part:?}").contains("may or may not have run"), "{part:?}");
    // In the next turn's history, every call has its result.
    plane.sandbox.swallow(false);
    let next = tenant.say(&session, "say fine").await.turn_id;
    assert_eq!(tenant.wait(&next).await.status(), TurnStatus::Completed);
}

#[tokio::test]
async fn fifty_concurrent_turns_get_their_own_results() {
    let plane = Plane::start().await;
    let mut turns = Vec::new();
    for number in 0..50 {
        let mut tenant = plane.tenant();
        turns.push(async move {
            let session = tenant.session().await;
            let events = tenant.run(&session, &format!("run echo number-{number}-")).await;
            let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
            assert!(result["content"].as_str().unwrap().contains(&format!("number-{number}-")));
            assert_eq!(events.last().unwrap().kind, "turn.completed");
        });
    }
    futures::future::join_all(turns).await;
    assert_eq!(plane.sandbox.ran().len(), 50);
}
