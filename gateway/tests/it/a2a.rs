//! Tests the A2A route of agents, which passes bodies to registry-svc without parsing them.

use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use steward_proto::registry::v1::{RelayA2aRequest, RelayA2aResponse};
use svc_core::{
    error::{self, ErrorKind, PublicError, ServiceError},
    wire::principal::PrincipalKind,
};
use tonic::Status;

use crate::{
    test_gateway::{TestGateway, account, principal, problem},
    upstream::{Answer, Call, one},
};

const PATH: &str = "/v1/agents/01a1fd0f-0ed5-7359-9f29-5438df5e435c/a2a";

/// A request with white space that would be lost if the gateway parsed and rewrote it.
const BODY: &str = "{ \"jsonrpc\":\"2.0\" ,\"id\": 1.0, \"method\":\"message/send\",\"params\":{ } }";

fn send(gateway: &TestGateway, body: &str) -> RequestBuilder {
    let request = gateway.request(Method::POST, PATH).header("content-type", "application/json");
    request.body(body.to_owned())
}

async fn answers(_: Call) -> Result<Answer, Status> {
    let headers = [
        ("a2a-version", "1.0"),
        ("x-steward-relay-message", "m"),
        ("retry-after", "5"),
        ("set-cookie", "a=b"),
    ];
    one(&RelayA2aResponse {
        http_status: 202,
        content_type: "application/json".to_owned(),
        body: Bytes::from_static(b"{ \"result\" : 1.0 }"),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    })
}

#[tokio::test]
async fn a_request_and_its_answer_pass_unread() {
    let gateway = TestGateway::open(answers).await;
    let answer = send(&gateway, BODY).header("a2a-version", "1.0").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let headers = answer.headers().clone();
    for (name, value) in [
        ("content-type", "application/json"),
        ("a2a-version", "1.0"),
        ("x-steward-relay-message", "m"),
        ("retry-after", "5"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers.contains_key("x-request-id") && headers.contains_key("ratelimit"));
    assert!(!headers.contains_key("set-cookie"), "the registry says no more than it has to");
    assert_eq!(answer.text().await.unwrap(), "{ \"result\" : 1.0 }");

    let call = gateway.upstream.only_call();
    assert_eq!(call.path, "/steward.registry.v1.RelayService/RelayA2a");
    assert_eq!(call.principal.as_ref().unwrap().account_id, Some(account()));
    let asked = RelayA2aRequest {
        agent_id: "01a1fd0f-0ed5-7359-9f29-5438df5e435c".to_owned(),
        a2a_version: "1.0".to_owned(),
        content_type: "application/json".to_owned(),
        body: Bytes::from_static(BODY.as_bytes()),
    };
    assert_eq!(call.decode::<RelayA2aRequest>(), asked);
    assert_eq!(call.header("x-request-id"), Some(headers["x-request-id"].to_str().unwrap()));
}

#[tokio::test]
async fn what_is_no_json_or_no_text_is_for_the_registry_to_judge() {
    let gateway = TestGateway::open(answers).await;
    for body in ["", "no JSON", "[]"] {
        assert_eq!(send(&gateway, body).send().await.unwrap().status(), 202, "{body}");
    }
    let typed =
        gateway.request(Method::POST, PATH).header("content-type", "Application/A2A+json; v=1").body("{}");
    assert_eq!(typed.send().await.unwrap().status(), 202);
    let asked: Vec<RelayA2aRequest> = gateway.upstream.calls().iter().map(Call::decode).collect();
    let bodies: Vec<&[u8]> = asked.iter().map(|request| request.body.as_ref()).collect();
    assert_eq!(bodies, [&b""[..], b"no JSON", b"[]", b"{}"]);
    assert!(asked.iter().all(|request| request.a2a_version.is_empty()));
}

#[tokio::test]
async fn callers_are_admitted_and_limited_as_everywhere() {
    let gateway =
        TestGateway::with(steward_proto::DESCRIPTORS, |config| config.requests.max_body_bytes = 100, answers)
            .await;
    gateway.tokens.add("stw_reader", principal(PrincipalKind::Account, &["agents:read"]));
    gateway.tokens.add("stw_admin", principal(PrincipalKind::Admin, &["*"]));
    let by = |token: &str| gateway.anonymous(Method::POST, PATH).bearer_auth(token).body(BODY);
    let long = "x".repeat(101);
    for (request, want, code) in [
        (gateway.anonymous(Method::POST, PATH).body(BODY), 401, "UNAUTHENTICATED"),
        (by("stw_no_scope"), 401, "UNAUTHENTICATED"),
        (by("stw_reader"), 403, "PERMISSION_DENIED"),
        (by("stw_admin"), 403, "PERMISSION_DENIED"),
        (send(&gateway, &long), 413, "PAYLOAD_TOO_LARGE"),
        (gateway.request(Method::POST, PATH).body(BODY), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (
            gateway.request(Method::POST, PATH).header("content-type", "text/plain").body(BODY),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (send(&gateway, BODY).header("content-encoding", "gzip"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (
            send(&gateway, BODY).header("a2a-version", "0.3").header("a2a-version", "1.0"),
            400,
            "INVALID_ARGUMENT",
        ),
        (gateway.get(PATH), 405, "METHOD_NOT_ALLOWED"),
        (gateway.request(Method::POST, "/v1/agents/%ff/a2a").body(BODY), 404, "ROUTE_NOT_FOUND"),
        (gateway.request(Method::POST, "/v1/agents/x/a2a/y").body(BODY), 404, "ROUTE_NOT_FOUND"),
    ] {
        let (status, headers, document) = problem(request).await;
        assert_eq!((status.as_u16(), document["code"].as_str()), (want, Some(code)), "{document}");
        assert_eq!(status == 405, headers.get("allow").is_some_and(|allow| allow == "POST"));
    }
    assert_eq!(gateway.upstream.count(), 0);
    // Routes of the contract work as usual beside it.
    gateway.get("/v1/agents/x").send().await.unwrap();
    assert_eq!(gateway.upstream.only_call().path, "/steward.registry.v1.AgentService/GetAgent");
}

/// Errors of registry-svc's relay, by kind and code.
#[derive(Debug)]
struct Refusal(ErrorKind, &'static str);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.1)
    }
}

impl std::error::Error for Refusal {}

impl ServiceError for Refusal {
    fn public(&self) -> PublicError {
        PublicError::new(self.0, self.1, "as it says")
    }
}

#[tokio::test]
async fn what_the_relay_refuses_is_a_problem() {
    for (kind, code, want) in [
        (ErrorKind::NotFound, "NOT_FOUND", 404),
        (ErrorKind::ResourceExhausted, "AGENT_BUSY", 429),
        (ErrorKind::Unavailable, "UNAVAILABLE", 503),
        // The gateway still has the token in its cache as valid; registry-svc knows that it was revoked.
        (ErrorKind::Unauthenticated, "TOKEN_NOT_LIVE", 401),
    ] {
        let refuse = move |_: Call| async move { Err(error::to_status(&Refusal(kind, code))) };
        let gateway = TestGateway::open(refuse).await;
        let (status, _, document) = problem(send(&gateway, BODY)).await;
        assert_eq!((status.as_u16(), document["code"].as_str()), (want, Some(code)), "{document}");
    }
    // The gateway answers 500 if registry-svc rejects the gateway's assertion or returns no HTTP status: both
    // are bugs in Steward, not errors of the caller.
    let refuse =
        |_: Call| async { Err(error::to_status(&Refusal(ErrorKind::Unauthenticated, "UNAUTHENTICATED"))) };
    let (status, _, document) = problem(send(&TestGateway::open(refuse).await, BODY)).await;
    assert_eq!((status.as_u16(), document["code"].as_str()), (500, Some("INTERNAL")));
    let gateway = TestGateway::open(|_: Call| async { one(&RelayA2aResponse::default()) }).await;
    let (status, _, document) = problem(send(&gateway, BODY)).await;
    assert_eq!((status.as_u16(), document["code"].as_str()), (500, Some("INTERNAL")));
}
