//! Tests how the gateway drains when it is stopped.

use std::time::Duration;

use futures::{StreamExt, stream};
use prost::Message;
use steward_proto::chat::v1::{GetTurnResponse, StreamTurnEventsResponse, TurnEvent};
use svc_core::run::lifecycle::Outcome;

use crate::{
    test_gateway::{TestGateway, eventually},
    upstream::one,
};

async fn start(drain_delay: Duration) -> TestGateway {
    let change = |config: &mut gateway::Config| config.connections.drain_delay = drain_delay;
    TestGateway::with(steward_proto::DESCRIPTORS, change, |call| async move {
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
async fn open_requests_finish_and_no_new_ones_are_taken() {
    let gateway = start(Duration::from_millis(50)).await;
    let (answer, (outcome, took)) = tokio::join!(gateway.get("/v1/turns/7").send(), async {
        eventually("the request is open", || gateway.upstream.count() == 1).await;
        let stopped = gateway.stop(Duration::from_secs(10)).await;
        assert!(reqwest::Client::new().get(gateway.url("/healthz")).send().await.is_err());
        stopped
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(outcome, Outcome::Clean);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn streams_end_cleanly_so_that_their_clients_come_back() {
    let gateway = start(Duration::from_millis(50)).await;
    let response = gateway.get("/v1/turns/7/events").send().await.unwrap();
    // An idle connection must not delay the end of the process.
    let _idle = gateway.get("/healthz").send().await.unwrap();
    let (text, (outcome, took)) = tokio::join!(response.text(), gateway.stop(Duration::from_secs(10)));
    // The body ends without a transport error, so that the client can read all of it.
    let text = text.unwrap();
    assert!(text.starts_with("id: 1\n") && text.ends_with("come back with your last id\n\n"), "{text}");
    assert!(!text.contains("event: problem"), "{text}");
    assert_eq!(outcome, Outcome::Clean);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn it_is_not_ready_before_its_listener_closes() {
    let gateway = start(Duration::from_secs(1)).await;
    let (outcome, ()) = tokio::join!(async { gateway.stop(Duration::from_secs(10)).await.0 }, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ready = gateway.http.get(gateway.url("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 503);
        assert!(ready.text().await.unwrap().contains("\"draining\":true"));
        assert_eq!(gateway.get("/v1/turns/7").send().await.unwrap().status(), 200);
    });
    assert_eq!(outcome, Outcome::Clean);
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_period_is_ended() {
    let gateway = TestGateway::open(|_| std::future::pending()).await;
    let (answer, (outcome, took)) = tokio::join!(gateway.get("/v1/turns/7").send(), async {
        eventually("the request is open", || gateway.upstream.count() == 1).await;
        gateway.stop(Duration::from_millis(500)).await
    });
    assert!(answer.is_err());
    assert_eq!(outcome, Outcome::Failed);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
