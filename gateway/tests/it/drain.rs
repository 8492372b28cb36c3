//! Stopping.

use std::time::Duration;

use futures::{StreamExt, stream};
use prost::Message;
use steward_proto::chat::v1::{GetTurnResponse, StreamTurnEventsResponse, TurnEvent};
use svc_core::run::lifecycle::Outcome;

use crate::{
    door::{Door, eventually},
    upstream::one,
};

async fn door(drain_delay: Duration) -> Door {
    let change = |config: &mut gateway::Config| config.connections.drain_delay = drain_delay;
    Door::with(steward_proto::DESCRIPTORS, change, |call| async move {
        if call.path.ends_with("/StreamTurnEvents") {
            let event = TurnEvent { id: "1".to_owned(), kind: "x".to_owned(), payload: "{}".into() };
            let first = StreamTurnEventsResponse { event: Some(event) }.encode_to_vec().into();
            return Ok(stream::iter([Ok(first)]).chain(stream::pending()).boxed());
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        one(&GetTurnResponse { turn: None })
    })
    .await
}

#[tokio::test]
async fn requests_in_hand_finish_and_no_new_ones_are_taken() {
    let door = door(Duration::from_millis(50)).await;
    let (answer, (outcome, took)) = tokio::join!(door.get("/v1/turns/7").send(), async {
        eventually("the request is in hand", || door.upstream.count() == 1).await;
        let stopped = door.stop(Duration::from_secs(10)).await;
        assert!(reqwest::Client::new().get(door.url("/healthz")).send().await.is_err());
        stopped
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(outcome, Outcome::Clean);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn streams_end_cleanly_so_that_their_clients_come_back() {
    let door = door(Duration::from_millis(50)).await;
    let response = door.get("/v1/turns/7/events").send().await.unwrap();
    // An idle connection must not hold the process up either.
    let _idle = door.get("/healthz").send().await.unwrap();
    let (text, (outcome, took)) = tokio::join!(response.text(), door.stop(Duration::from_secs(10)));
    // No error: the body ended as bodies do.
    let text = text.unwrap();
    assert!(text.starts_with("id: 1\n") && text.ends_with("come back with your last id\n\n"), "{text}");
    assert!(!text.contains("event: problem"), "{text}");
    assert_eq!(outcome, Outcome::Clean);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn it_says_that_it_is_not_ready_before_the_door_closes() {
    let door = door(Duration::from_secs(1)).await;
    let (outcome, ()) = tokio::join!(async { door.stop(Duration::from_secs(10)).await.0 }, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ready = door.http.get(door.url("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 503);
        assert!(ready.text().await.unwrap().contains("\"draining\":true"));
        assert_eq!(door.get("/v1/turns/7").send().await.unwrap().status(), 200);
    });
    assert_eq!(outcome, Outcome::Clean);
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_period_is_ended() {
    let door = Door::open(|_| std::future::pending()).await;
    let (answer, (outcome, took)) = tokio::join!(door.get("/v1/turns/7").send(), async {
        eventually("the request is in hand", || door.upstream.count() == 1).await;
        door.stop(Duration::from_millis(500)).await
    });
    assert!(answer.is_err());
    assert_eq!(outcome, Outcome::Failed);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
