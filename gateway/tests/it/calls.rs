//! Tests unary calls: the request that the service gets, the answer that the caller gets, and errors.

use std::time::Duration;

use futures::{StreamExt, stream};
use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use steward_proto::chat::v1::{
    CancelTurnRequest, CancelTurnResponse, CreateSessionRequest, CreateSessionResponse, GetTurnRequest,
    GetTurnResponse, Session, Turn, TurnStatus,
};
use svc_core::{
    error::{ErrorKind, Invalid, status},
    testing::FaultProxy,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::{
    test_gateway::{PROBE, TOKEN, TestGateway, account, eventually, problem},
    upstream::{Upstream, echo, one},
};

#[tokio::test]
async fn a_request_reaches_its_service_in_its_callers_name() {
    let gateway = TestGateway::open(|_| async {
        let session = Session { session_id: "s-1".to_owned(), ..Session::default() };
        one(&CreateSessionResponse { session: Some(session) })
    })
    .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = gateway
        .post("/v1/sessions", &json!({"title": "Möwe", "inputPolicy": "INPUT_POLICY_REJECT"}))
        .header("x-request-id", "req-7")
        .header("idempotency-key", "key-1")
        .header("traceparent", trace)
        .header("tracestate", "a=b")
        .header("cookie", "private")
        .header("x-steward-principal", "forged")
        .header("x-other", "private")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["x-request-id"], "req-7");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert!(!answer.headers().contains_key("grpc-status"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["session"]["sessionId"], "s-1");
    assert_eq!(answer["session"]["inputPolicy"], "INPUT_POLICY_UNSPECIFIED");

    let call = gateway.upstream.only_call();
    assert_eq!(call.path, "/steward.chat.v1.ChatService/CreateSession");
    let request: CreateSessionRequest = call.decode();
    assert_eq!((request.title.as_str(), request.input_policy), ("Möwe", 2));
    // The gateway sends an assertion of the caller to the service, and no part of the token.
    let principal = call.principal.clone().unwrap();
    assert_eq!(principal.account_id, Some(account()));
    assert_eq!(call.header("x-request-id"), Some("req-7"));
    assert_eq!(call.header("idempotency-key"), Some("key-1"));
    assert!(call.header("traceparent").unwrap().contains("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(call.header("tracestate"), Some("a=b"));
    assert!(call.header("grpc-timeout").is_some());
    // If the call has a content-length, it is the length of the gRPC message, not of the caller's JSON.
    let length = (5 + request.encoded_len()).to_string();
    assert!(call.header("content-length").is_none_or(|stated| stated == length));
    for absent in ["authorization", "cookie", "x-other", "host"] {
        assert_eq!(call.header(absent), None, "{absent}");
    }
    assert!(!format!("{:?}", call.metadata).contains(TOKEN));
}

#[tokio::test]
async fn an_id_is_made_for_a_request_without_a_sane_one() {
    let gateway = TestGateway::open(|_| async { one(&GetTurnResponse { turn: None }) }).await;
    let answer = gateway.get("/v1/turns/7").header("x-request-id", "no good").send().await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(id.len(), 36);
    assert_eq!(gateway.upstream.only_call().header("x-request-id"), Some(id.as_str()));
}

#[tokio::test]
async fn every_kind_of_field_survives_the_way_there_and_back() {
    let gateway = TestGateway::with(&PROBE, |_| {}, echo).await;
    let body = json!({
        "doubleValue": 1.5, "floatValue": 0.5, "int32Value": -1, "int64Value": "-9007199254740993",
        "uint32Value": 7, "uint64Value": "18446744073709551615", "boolValue": true, "data": "AAEC",
        "color": "COLOR_RED", "nested": {"text": "a", "inner": {"text": "b", "number": 0}, "number": 3},
        "texts": ["a", "ü"], "numbers": [1, 2], "labels": {"a": "b"},
        "byNumber": {"7": {"text": "c", "number": 0}}, "at": "2026-11-21T05:03:11Z", "within": "1.500s",
        "free": {"a": [1.0, null, "b"]}, "maybe": "", "perhaps": "", "left": "l", "list": [],
        "mask": "text",
    });
    let answer: Value = gateway.post("/v1/probes/x%2Fy", &body).send().await.unwrap().json().await.unwrap();
    let mut expected = body;
    expected["text"] = json!("x/y");
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_head_request_is_a_get_without_its_body() {
    let gateway =
        TestGateway::open(|_| async { one(&GetTurnResponse { turn: Some(Turn::default()) }) }).await;
    let answer = gateway.request(Method::HEAD, "/v1/turns/7").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.content_length().unwrap_or(0) > 0 || answer.headers().contains_key("content-length"));
    assert_eq!(gateway.upstream.calls().len(), 1);
}

#[tokio::test]
async fn an_operation_without_required_fields_needs_no_body() {
    let gateway = TestGateway::open(|_| async { one(&CancelTurnResponse { turn: None }) }).await;
    let answer = gateway.request(Method::POST, "/v1/turns/7:cancel").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let call = gateway.upstream.only_call();
    assert_eq!(call.path, "/steward.chat.v1.ChatService/CancelTurn");
    assert_eq!(call.decode::<CancelTurnRequest>().turn_id, "7");
}

#[tokio::test]
async fn a_refusal_of_a_service_is_passed_on_with_its_reason() {
    let gateway = TestGateway::open(|call| async move {
        let invalid = [Invalid::new("turn_id", "must be a UUID")];
        Err(match call.decode::<GetTurnRequest>().turn_id.as_str() {
            "none" => status(ErrorKind::NotFound, "TURN_NOT_FOUND", "there is no such turn", None, &[]),
            "bad" => status(
                ErrorKind::InvalidArgument,
                "INVALID_ARGUMENT",
                "turn_id must be a UUID",
                None,
                &invalid,
            ),
            "busy" => {
                let after = Some(Duration::from_millis(2100));
                status(ErrorKind::ResourceExhausted, "OVERLOADED", "too many turns", after, &[])
            }
            "race" => status(ErrorKind::Aborted, "ABORTED", "another request was faster", None, &[]),
            "denied" => status(ErrorKind::PermissionDenied, "PERMISSION_DENIED", "not yours", None, &[]),
            "large" => status(ErrorKind::PayloadTooLarge, "PAYLOAD_TOO_LARGE", "too large", None, &[]),
            "assertion" => {
                status(ErrorKind::Unauthenticated, "UNAUTHENTICATED", "assertion refused", None, &[])
            }
            "defect" => status(ErrorKind::Internal, "INTERNAL", "select * from turns", None, &[]),
            "foreign" => Status::not_found("route /var/lib not found"),
            _ => Status::new(Code::Unimplemented, "no such method at 10.0.0.7"),
        })
    })
    .await;
    for (turn, http, code, retryable) in [
        ("none", 404, "TURN_NOT_FOUND", false),
        ("bad", 400, "INVALID_ARGUMENT", false),
        ("busy", 429, "OVERLOADED", true),
        ("race", 409, "ABORTED", true),
        ("denied", 403, "PERMISSION_DENIED", false),
        ("large", 413, "PAYLOAD_TOO_LARGE", false),
        // The service refused the gateway's own assertion, which is a defect of Steward.
        ("assertion", 500, "INTERNAL", false),
        ("defect", 500, "INTERNAL", false),
        ("foreign", 500, "INTERNAL", false),
        ("other", 500, "INTERNAL", false),
    ] {
        let (status, headers, document) = problem(gateway.get(&format!("/v1/turns/{turn}"))).await;
        assert_eq!(status.as_u16(), http, "{turn}");
        assert_eq!(document["code"], code, "{turn}");
        assert_eq!(document["retryable"], retryable, "{turn}");
        let text = document.to_string();
        assert!(!["select", "/var/lib", "10.0.0.7"].iter().any(|secret| text.contains(secret)), "{text}");
        match turn {
            "bad" => assert_eq!(document["errors"], json!([{"field": "turnId", "detail": "must be a UUID"}])),
            "busy" => assert_eq!(headers["retry-after"], "3"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_service_that_is_away_is_a_503_until_it_is_back() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let change = |config: &mut gateway::Config| {
        config.peers.get_mut("chat").unwrap().urls = vec![format!("http://{nowhere}")];
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, |_| async {
        one(&GetTurnResponse { turn: None })
    })
    .await;
    let start = Instant::now();
    let (status, _, document) = problem(gateway.get("/v1/turns/7")).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((status.as_u16(), document["retryable"].as_bool()), (503, Some(true)));
    let text = document.to_string();
    assert!(!text.contains(&nowhere.port().to_string()) && !text.contains("tcp"), "{text}");
    // The routes of other services still work.
    assert_eq!(gateway.get("/v1/purges/7").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_service_that_dies_while_it_answers_is_a_503() {
    let dying = Upstream::start(Vec::new(), |_| std::future::pending()).await;
    let proxy = FaultProxy::start(dying.address.to_string()).await;
    let change = {
        let address = proxy.address();
        move |config: &mut gateway::Config| {
            config.peers.get_mut("chat").unwrap().urls = vec![format!("http://{address}")];
        }
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, echo).await;
    let (answer, ()) = tokio::join!(problem(gateway.get("/v1/turns/7")), async {
        eventually("the call arrives", || dying.count() == 1).await;
        proxy.cut();
    });
    assert_eq!(answer.0.as_u16(), 503, "{}", answer.2);
}

#[tokio::test]
async fn a_caller_can_shorten_the_wait_and_not_lengthen_it() {
    let change = |config: &mut gateway::Config| {
        config.requests.timeout = Duration::from_secs(2);
        config.requests.timeouts.clear();
    };
    let hang = |_| std::future::pending();
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, hang).await;
    for (header, value, least, most) in [
        ("x-request-timeout", "0.2", 190, 1000),
        ("grpc-timeout", "300m", 290, 1000),
        ("x-request-timeout", "3600", 1900, 3500),
    ] {
        let start = Instant::now();
        let (status, _, document) = problem(gateway.get("/v1/turns/7").header(header, value)).await;
        let took = start.elapsed().as_millis();
        assert_eq!((status.as_u16(), &document["code"]), (504, &json!("DEADLINE_EXCEEDED")));
        assert!((least..most).contains(&took), "{header}: {value} took {took} ms");
    }
    // The gateway sends the deadline to the service, so that the service stops in time too.
    for call in gateway.upstream.calls() {
        let sent = call.header("grpc-timeout").unwrap().trim_end_matches('m').parse::<u64>().unwrap();
        assert!(sent <= 2000, "{sent}");
    }
    for (header, value) in [
        ("x-request-timeout", "soon"),
        ("x-request-timeout", "-1"),
        ("x-request-timeout", "0"),
        ("grpc-timeout", "5"),
    ] {
        let (status, _, _) = problem(gateway.get("/v1/turns/7").header(header, value)).await;
        assert_eq!(status.as_u16(), 400, "{header}: {value}");
    }
}

#[tokio::test]
async fn a_method_may_have_a_longer_time_of_its_own() {
    let change = |config: &mut gateway::Config| {
        config.requests.timeout = Duration::from_millis(200);
        let longer = gateway::testing::Timeout(Duration::from_secs(10));
        config.requests.timeouts = [("steward.chat.v1.ChatService.GetTurn".to_owned(), longer)].into();
    };
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        one(&GetTurnResponse { turn: None })
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, slow).await;
    assert_eq!(gateway.get("/v1/turns/7").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(problem(gateway.get("/v1/sessions/7")).await.0.as_u16(), 504);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let gateway = TestGateway::open(|call| async move {
        let _held = call.open;
        std::future::pending().await
    })
    .await;
    let request = gateway.get("/v1/turns/7").timeout(Duration::from_millis(300));
    request.send().await.unwrap_err();
    eventually("the service's call ends", || {
        gateway.upstream.count() == 1 && gateway.upstream.open_calls() == 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_larger_than_allowed_is_a_defect_and_not_a_crash() {
    let change = |config: &mut gateway::Config| config.requests.max_answer_bytes = 1000;
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, |_| async {
        let turn = Turn { cause: "x".repeat(2000), status: TurnStatus::Failed.into(), ..Turn::default() };
        one(&GetTurnResponse { turn: Some(turn) })
    })
    .await;
    assert_eq!(problem(gateway.get("/v1/turns/7")).await.0.as_u16(), 500);
}

#[tokio::test]
async fn an_answer_that_does_not_decode_is_a_defect() {
    let gateway = TestGateway::open(|_| async {
        Ok(stream::iter([Ok(bytes::Bytes::from_static(b"\xff\xff"))]).boxed())
    })
    .await;
    assert_eq!(problem(gateway.get("/v1/turns/7")).await.0.as_u16(), 500);
}

#[tokio::test]
async fn idempotency_keys_are_checked_before_the_call() {
    let gateway = TestGateway::open(echo).await;
    let long = "k".repeat(256);
    for bad in ["", "a b", long.as_str()] {
        let request = gateway.post("/v1/sessions", &json!({})).header("idempotency-key", bad);
        let (status, _, document) = problem(request).await;
        assert_eq!(
            (status.as_u16(), &document["errors"][0]["field"]),
            (400, &json!("Idempotency-Key")),
            "{bad:?}"
        );
    }
    let twice = gateway
        .post("/v1/sessions", &json!({}))
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    assert_eq!(problem(twice).await.0.as_u16(), 400);
    assert!(gateway.upstream.calls().is_empty());
}
