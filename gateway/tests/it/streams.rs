//! Tests event streams: events arrive at once, a client can resume, and a stream ends in one of four ways.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use prost::Message;
use reqwest::Response;
use serde_json::{Value, json};
use steward_proto::chat::v1::{
    RunTurnRequest, RunTurnResponse, StreamTurnEventsRequest, StreamTurnEventsResponse, TurnEvent,
};
use svc_core::error::{ErrorKind, status};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    test_gateway::{PROBE, TOKEN, TestGateway, eventually, problem},
    upstream::Answer,
};

const EVENTS: &str = "/v1/turns/7/events";

fn event(id: &str, payload: &[u8]) -> Result<Bytes, Status> {
    let event =
        TurnEvent { id: id.to_owned(), kind: "text.delta".to_owned(), payload: payload.to_vec().into() };
    Ok(StreamTurnEventsResponse { event: Some(event) }.encode_to_vec().into())
}

fn stream_of(events: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Result<Answer, Status> {
    Ok(events.boxed())
}

/// Sends these events and does not end the stream.
fn then_silence(events: Vec<Result<Bytes, Status>>) -> Result<Answer, Status> {
    stream_of(stream::iter(events).chain(stream::pending()))
}

/// Reads to the end; fails if the connection broke instead of ending.
async fn whole(response: Response) -> String {
    tokio::time::timeout(Duration::from_secs(10), response.text()).await.expect("the stream ends").unwrap()
}

/// Reads until the body contains `text`, and returns everything read.
async fn read_until(body: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin), text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk =
            tokio::time::timeout(Duration::from_secs(10), body.next()).await.expect("more of the stream");
        read.push_str(std::str::from_utf8(&chunk.expect("no end yet").unwrap()).unwrap());
    }
    read
}

#[tokio::test]
async fn events_arrive_when_they_happen_byte_for_byte() {
    let odd = r#"{ "a":1.0,"b" : "\u00e9","c":[ ] }"#;
    let gateway = TestGateway::open(move |_| async move {
        stream_of(stream::iter(0..4).then(move |n| async move {
            if n > 0 {
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
            event(&format!("c-{n}"), odd.as_bytes())
        }))
    })
    .await;
    let start = Instant::now();
    let response = gateway.get(EVENTS).send().await.unwrap();
    assert_eq!(response.status(), 200);
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
    {
        assert_eq!(response.headers()[name], value);
    }
    let mut body = pin!(response.bytes_stream());
    for n in 0..4_u64 {
        let chunk = body.next().await.unwrap().unwrap();
        let (at, due) = (start.elapsed().as_millis(), u128::from(n * 600));
        assert_eq!(chunk, format!("id: c-{n}\nevent: text.delta\ndata: {odd}\n\n"));
        assert!((due..due + 550).contains(&at), "event {n} came at {at} ms");
    }
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn a_post_can_stream_too() {
    let gateway = TestGateway::open(|call| async move {
        let request: RunTurnRequest = call.decode();
        let event = TurnEvent { id: "1".to_owned(), kind: "echo".to_owned(), payload: request.input.into() };
        stream_of(stream::iter([Ok(RunTurnResponse { event: Some(event) }.encode_to_vec().into())]))
    })
    .await;
    let response =
        gateway.post("/v1/sessions/7/turns:run", &json!({"input": "two\nlines"})).send().await.unwrap();
    assert_eq!(whole(response).await, "id: 1\nevent: echo\ndata: two\ndata: lines\n\n");
}

#[tokio::test]
async fn messages_without_parts_are_sent_whole() {
    let gateway = TestGateway::with(
        &PROBE,
        |_| {},
        |_| async {
            // Field 8, `text`.
            stream_of(stream::iter([Ok(Bytes::from_static(b"\x42\x01a"))]))
        },
    )
    .await;
    let text = whole(gateway.get("/v1/probes/7:watch").send().await.unwrap()).await;
    let data: Value = serde_json::from_str(text.strip_prefix("data: ").unwrap().trim_end()).unwrap();
    assert_eq!(data["text"], "a");
}

#[tokio::test]
async fn the_last_event_id_reaches_the_service_as_a_field() {
    let gateway = TestGateway::open(|_| async { stream_of(stream::empty()) }).await;
    for (path, header, expected) in [
        (EVENTS.to_owned(), None, ""),
        (EVENTS.to_owned(), Some("c-5"), "c-5"),
        (format!("{EVENTS}?last_event_id=c-6"), None, "c-6"),
        (format!("{EVENTS}?lastEventId=c-7"), Some("c-7"), "c-7"),
    ] {
        let mut request = gateway.get(&path);
        if let Some(id) = header {
            request = request.header("last-event-id", id);
        }
        assert_eq!(whole(request.send().await.unwrap()).await, "");
        let asked: StreamTurnEventsRequest = gateway.upstream.calls().last().unwrap().decode();
        assert_eq!((asked.turn_id.as_str(), asked.last_event_id.as_str()), ("7", expected));
    }
}

#[tokio::test]
async fn an_error_before_the_first_event_has_a_status_of_its_own() {
    let gateway = TestGateway::open(|call| async move {
        let gone = status(ErrorKind::NotFound, "TURN_NOT_FOUND", "there is no such turn", None, &[]);
        match call.decode::<StreamTurnEventsRequest>().turn_id.as_str() {
            "at-once" => Err(gone),
            // The service accepts the call; the first item of its stream is an error.
            _ => stream_of(stream::once(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(gone)
            })),
        }
    })
    .await;
    for turn in ["at-once", "a-little-later"] {
        let (status, _, document) = problem(gateway.get(&format!("/v1/turns/{turn}/events"))).await;
        assert_eq!((status.as_u16(), &document["code"]), (404, &json!("TURN_NOT_FOUND")), "{turn}");
    }
}

#[tokio::test]
async fn a_stream_without_events_begins_and_stays_alive() {
    let change = |config: &mut gateway::Config| {
        config.streams.first_event = Duration::from_millis(200);
        config.streams.keep_alive = Duration::from_millis(300);
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, |_| async {
        stream_of(stream::once(async {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            event("1", b"{}")
        }))
    })
    .await;
    let start = Instant::now();
    let response = gateway.get(EVENTS).send().await.unwrap();
    assert!((190..950).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let text = whole(response).await;
    assert!(text.starts_with(": keep-alive\n\n: keep-alive\n\n"), "{text}");
    assert!(text.ends_with("data: {}\n\n"), "{text}");
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_a_problem_without_an_id() {
    let gateway = TestGateway::open(|_| async {
        let failed = status(ErrorKind::Unavailable, "TURN_MOVED", "the turn continues elsewhere", None, &[]);
        stream_of(stream::iter([event("1", b"{}"), Err(failed)]))
    })
    .await;
    let response = gateway.get(EVENTS).header("x-request-id", "req-1").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let text = whole(response).await;
    let last = text.strip_prefix("id: 1\nevent: text.delta\ndata: {}\n\nevent: problem\ndata: ").unwrap();
    let document: Value = serde_json::from_str(last.trim_end()).unwrap();
    assert_eq!((&document["code"], &document["status"]), (&json!("TURN_MOVED"), &json!(503)));
    assert_eq!((&document["retryable"], &document["request_id"]), (&json!(true), &json!("req-1")));
}

#[tokio::test]
async fn a_broken_frame_is_a_problem_without_its_text() {
    let gateway = TestGateway::open(|_| async {
        stream_of(stream::iter([event("1", b"{}"), event("2\nid: 9", b"{}")]))
    })
    .await;
    let text = whole(gateway.get(EVENTS).send().await.unwrap()).await;
    assert!(
        text.contains("event: problem\n") && text.contains("\"INTERNAL\"") && !text.contains("id: 9"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_services_stream() {
    let gateway = TestGateway::open(|call| async move {
        let held = call.open;
        let ticks = stream::unfold((0, held), |(n, held)| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((event(&n.to_string(), b"{}"), (n + 1, held)))
        });
        stream_of(ticks)
    })
    .await;
    let response = gateway.get(EVENTS).send().await.unwrap();
    let mut body = Box::pin(response.bytes_stream());
    read_until(&mut body, "id: 3\n").await;
    assert_eq!(gateway.upstream.open_calls(), 1);
    drop(body);
    eventually("the service's stream ends", || gateway.upstream.open_calls() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_silent_stream_ends_it_too() {
    let change = |config: &mut gateway::Config| config.streams.first_event = Duration::from_millis(50);
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, |call| async move {
        let held = call.open;
        stream_of(stream::once(async move {
            let _held = held;
            std::future::pending().await
        }))
    })
    .await;
    let response = gateway.get(EVENTS).send().await.unwrap();
    assert_eq!(gateway.upstream.open_calls(), 1);
    drop(response);
    eventually("the service's stream ends", || gateway.upstream.open_calls() == 0).await;
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams_within_five_seconds() {
    let gateway = TestGateway::open(|_| async { then_silence(vec![event("1", b"{}")]) }).await;
    let response = gateway.get(EVENTS).send().await.unwrap();
    let mut body = Box::pin(response.bytes_stream());
    read_until(&mut body, "id: 1\n").await;
    // The token cannot be looked up, so it may still be valid: the stream must not end as if it were revoked.
    gateway.tokens.away(true);
    tokio::time::sleep(Duration::from_millis(4500)).await;
    gateway.tokens.away(false);
    let revoked = Instant::now();
    gateway.tokens.revoke(TOKEN);
    let text = read_until(&mut body, "event: problem\n").await;
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
    assert!(text.contains("\"UNAUTHENTICATED\"") && !text.contains("id:"), "{text}");
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn streams_of_one_token_ask_about_it_together() {
    let gateway = TestGateway::open(|_| async { then_silence(vec![event("1", b"{}")]) }).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(gateway.get(EVENTS).send().await.unwrap());
    }
    let before = gateway.tokens.asked();
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let asked = gateway.tokens.asked() - before;
    assert!((1..=4).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_slow_reader_holds_the_service_back() {
    let sent = Arc::new(Mutex::new(0_u64));
    let count = sent.clone();
    let gateway = TestGateway::open(move |_| {
        let count = count.clone();
        async move {
            stream_of(stream::repeat_with(move || {
                *count.lock().unwrap() += 1;
                event("1", &[b'x'; 10_000])
            }))
        }
    })
    .await;
    let response = gateway.get(EVENTS).send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let after_a_second = *sent.lock().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The client reads nothing, so all buffers up to the service are full and the gateway reads no more from
    // it.
    assert!(*sent.lock().unwrap() <= after_a_second + 10, "{after_a_second}");
    assert!(after_a_second * 10_000 < 64 * 1024 * 1024, "{after_a_second}");
    drop(response);
}
