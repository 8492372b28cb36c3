//! Tools: journaled before they are sent, effects at most once, in doubt when the outcome cannot be found.

use std::time::Duration;

use steward_proto::chat::v1::{CancelTurnRequest, MessageRole, TurnStatus};

use crate::plane::{Plane, assert_whole, count, kinds, until, visible_text};

#[tokio::test]
async fn a_model_runs_a_command_and_answers_with_what_came_back() {
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
    assert_eq!(plane.sandbox.ran().len(), 1, "only what changes something is keyed");
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
async fn a_turn_has_a_maximum_of_steps() {
    let plane = Plane::with(|config| config.native.max_steps = 2).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run one then run two then run three").await;
    assert_eq!(events.last().unwrap().json()["cause"], "STEP_LIMIT");
    assert_eq!(plane.sandbox.ran().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_and_the_call_not_repeated() {
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
async fn a_call_without_a_known_outcome_is_in_doubt_and_not_repeated() {
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
    let plane = Plane::with(|config| config.sandbox.resolve_patience = Duration::from_millis(100)).await;
    plane.sandbox.commands_take(Duration::from_millis(800));
    plane.sandbox.lose_answers(true);
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "run make").await;
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 1);
}

#[tokio::test]
async fn a_call_that_is_said_to_run_longer_than_it_may_is_in_doubt() {
    let plane = Plane::start().await;
    plane.sandbox.stay_running();
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "write notes.txt abc").await;
    let result = events.iter().find(|event| event.kind == "tool.result").unwrap().json();
    assert_eq!(result["in_doubt"], true, "{result}");
    assert_eq!(events.last().unwrap().kind, "turn.completed");
    assert_eq!(plane.sandbox.ran().len(), 1);
    // Two seconds of retries, with a pause of 50 ms after every answer.
    let asked = plane.sandbox.asked();
    assert!((2..=45).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn a_call_that_never_begins_is_retried_within_a_limit() {
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
    // Two seconds of retries, with a pause of 50 ms after each.
    let asked = plane.sandbox.asked();
    assert!((6..=45).contains(&asked), "retried {asked} times");
}

#[tokio::test]
async fn canceling_during_a_call_says_that_it_may_have_run() {
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
    // The next turn gets a history in which every call has a result.
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
