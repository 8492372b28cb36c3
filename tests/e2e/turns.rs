//! Tests a turn as its client sees it: every event once, in order, and the same bytes in every replay.

use serde_json::json;
use suite_tests::{actors::refusal, cluster::Cluster};

#[tokio::test]
async fn what_was_seen_is_replayed_byte_for_byte_from_any_cursor() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("reader").await;
    let session = tenant.session().await;
    let turn = tenant.begin(&session, "count to 30 every 20ms").await;

    // Watches the turn live while it is written, then again from the journal.
    let live = tenant.watch(&turn, "").await;
    live.assert_whole();
    assert_eq!(live.kinds().first(), Some(&"turn.started"));
    assert_eq!(live.kinds().last(), Some(&"turn.completed"));
    assert_eq!(tenant.watch(&turn, "").await, live);
    for seen in [1, live.frames.len() / 2, live.frames.len() - 1] {
        let rest = tenant.watch(&turn, &live.frames[seen - 1].id).await;
        assert_eq!(rest.frames, live.frames[seen..], "after {seen} events");
    }

    let messages = tenant.api.get(&format!("/v1/sessions/{session}/messages")).await.unwrap();
    let answer = messages["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(answer["text"], json!(live.text()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_turn_is_an_error_and_not_a_gap() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("mixed up").await;
    let session = tenant.session().await;
    let (first, second) = (tenant.begin(&session, "say one").await, tenant.begin(&session, "say two").await);
    let seen = tenant.watch(&first, "").await;
    tenant.watch(&second, "").await;
    let cursor = &seen.frames.last().unwrap().id;
    let problem = refusal(tenant.api.events(&format!("/v1/turns/{second}/events"), cursor).await);
    assert_eq!((problem.status, problem.code.as_str()), (400, "INVALID_ARGUMENT"));
    cluster.stop().await;
}
