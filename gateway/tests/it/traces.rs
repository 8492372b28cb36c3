//! Tests that one trace leads from the caller through the gateway to the service.

use std::time::Duration;

use futures::{StreamExt, stream};
use steward_proto::chat::v1::GetTurnResponse;

use crate::{
    test_gateway::{TestGateway, telemetry},
    upstream::{Upstream, one},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[tokio::test]
async fn the_callers_trace_reaches_the_service_through_each_hop() {
    // The collector answers every export with an empty message.
    let collector =
        Upstream::start(Vec::new(), |_| async { Ok(stream::iter([Ok(bytes::Bytes::new())]).boxed()) }).await;
    telemetry(&format!("http://{}", collector.address));
    let gateway = TestGateway::open(|_| async { one(&GetTurnResponse { turn: None }) }).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let answer =
        gateway.get("/v1/turns/secret-id?").header("traceparent", &parent).header("tracestate", "a=b").send();
    assert_eq!(answer.await.unwrap().status(), 200);

    let call = gateway.upstream.only_call();
    let sent: Vec<&str> = call.header("traceparent").unwrap().split('-').collect();
    assert_eq!((sent[1], sent[3], call.header("tracestate")), (TRACE, "01", Some("a=b")));
    assert_ne!(sent[2], CALLER);

    let spans = exported(&collector, b"http.route").await;
    // The spans have the names of both hops, with the route as a template, and (below) the caller's span as
    // parent.
    for text in ["GET /v1/turns/{turn_id}", "steward.chat.v1.ChatService/GetTurn", "request.id"] {
        assert!(contains(&spans, text.as_bytes()), "{text} in {}", String::from_utf8_lossy(&spans));
    }
    for id in [TRACE, CALLER, sent[2]] {
        let byte = |at| u8::from_str_radix(&id[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..id.len()).step_by(2).map(byte).collect();
        assert!(contains(&spans, &bytes), "{id}");
    }
    for absent in ["stw_", "grpc.health"] {
        assert!(!contains(&spans, absent.as_bytes()), "{absent}");
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Waits until the collector has received `part`, and returns everything received.
async fn exported(collector: &Upstream, part: &[u8]) -> Vec<u8> {
    for _ in 0..150 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let exports = collector.calls().into_iter().filter(|call| call.path.ends_with("TraceService/Export"));
        let sent: Vec<u8> = exports.flat_map(|call| call.message).collect();
        if contains(&sent, part) {
            return sent;
        }
    }
    panic!("no span was exported");
}
