//! Tests bad requests: each answer names the fault, and no bad request reaches a service.

use reqwest::{Method, RequestBuilder, header};
use steward_proto::sandbox::v1::WriteFileResponse;

use crate::{
    test_gateway::{TOKEN, TestGateway, problem},
    upstream::{echo, one},
};

/// A bad request and the expected answer.
struct Case {
    name: &'static str,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
}

fn case(name: &'static str, request: RequestBuilder, status: u16, code: &'static str) -> Case {
    Case { name, request, status, code, field: None }
}

fn invalid(name: &'static str, request: RequestBuilder, field: &'static str) -> Case {
    Case { field: Some(field), ..case(name, request, 400, "INVALID_ARGUMENT") }
}

fn request(gateway: &TestGateway, method: &str, path: &str) -> RequestBuilder {
    gateway.request(method.parse().unwrap(), path)
}

fn json(gateway: &TestGateway, method: &str, path: &str, body: &str) -> RequestBuilder {
    let request = request(gateway, method, path);
    request.header(header::CONTENT_TYPE, "application/json").body(body.to_owned())
}

fn paths_and_methods(gateway: &TestGateway) -> Vec<Case> {
    vec![
        case("no such path", request(gateway, "GET", "/v1/nothing"), 404, "ROUTE_NOT_FOUND"),
        case("the root", request(gateway, "GET", "/"), 404, "ROUTE_NOT_FOUND"),
        case("a trailing slash", request(gateway, "GET", "/v1/sessions/"), 404, "ROUTE_NOT_FOUND"),
        case("an empty segment", request(gateway, "GET", "/v1/sessions//messages"), 404, "ROUTE_NOT_FOUND"),
        case(
            "an unknown verb",
            request(gateway, "POST", "/v1/sessions/7/turns:walk"),
            404,
            "ROUTE_NOT_FOUND",
        ),
        case(
            "a method without an HTTP route",
            request(gateway, "POST", "/steward.registry.v1.AuthService/Authenticate"),
            404,
            "ROUTE_NOT_FOUND",
        ),
        case("another method", request(gateway, "PUT", "/v1/sessions"), 405, "METHOD_NOT_ALLOWED"),
        case(
            "another method of a verb",
            request(gateway, "GET", "/v1/sessions/7/turns:run"),
            405,
            "METHOD_NOT_ALLOWED",
        ),
        case(
            "another method of a hand-written route",
            request(gateway, "POST", "/healthz"),
            405,
            "METHOD_NOT_ALLOWED",
        ),
    ]
}

fn bodies(gateway: &TestGateway) -> Vec<Case> {
    vec![
        case(
            "a form",
            request(gateway, "POST", "/v1/sessions")
                .header("content-type", "application/x-www-form-urlencoded")
                .body("title=a"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        case(
            "a body of no type",
            request(gateway, "POST", "/v1/sessions").body("{}"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        case(
            "a compressed body",
            json(gateway, "POST", "/v1/sessions", "{}").header("content-encoding", "gzip"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        invalid("a body that is no JSON", json(gateway, "POST", "/v1/sessions", "{"), "body"),
        invalid("two JSON texts", json(gateway, "POST", "/v1/sessions", "{} {}"), "body"),
        invalid("a JSON list", json(gateway, "POST", "/v1/sessions", "[]"), "body"),
        invalid("an unknown field", json(gateway, "POST", "/v1/sessions", r#"{"titel": "a"}"#), "titel"),
        invalid(
            "a field twice",
            json(gateway, "POST", "/v1/sessions", r#"{"title": "a", "title": "b"}"#),
            "title",
        ),
        invalid(
            "a field in both spellings",
            json(gateway, "POST", "/v1/sessions", r#"{"inputPolicy": 1, "input_policy": 1}"#),
            "input_policy",
        ),
        invalid("a number for a text", json(gateway, "POST", "/v1/sessions", r#"{"title": 7}"#), "title"),
        invalid(
            "an unknown enum value",
            json(gateway, "POST", "/v1/sessions", r#"{"inputPolicy": "MAYBE"}"#),
            "inputPolicy",
        ),
        invalid(
            "a field of the path in the body",
            json(gateway, "POST", "/v1/sessions/7/turns", r#"{"sessionId": "8"}"#),
            "sessionId",
        ),
        invalid(
            "a bad duration",
            json(gateway, "POST", "/v1/sandboxes/7/execs", r#"{"timeout": "soon"}"#),
            "timeout",
        ),
        invalid(
            "bytes that are no base64",
            json(gateway, "POST", "/v1/sandboxes/7/files:write", r#"{"content": "%"}"#),
            "content",
        ),
        invalid(
            "a list of another type",
            json(gateway, "POST", "/v1/sandboxes/7/execs", r#"{"argv": ["a", 7]}"#),
            "argv[1]",
        ),
        invalid(
            "a negative number",
            json(gateway, "POST", "/v1/sandboxes/7/files:write", r#"{"mode": -1}"#),
            "mode",
        ),
        invalid(
            "a map of another type",
            json(gateway, "POST", "/v1/sandboxes/7/execs", r#"{"env": {"A": 7}}"#),
            "env.A",
        ),
        invalid("a body where there is none", json(gateway, "GET", "/v1/sessions", "{}"), "body"),
    ]
}

fn queries_and_paths(gateway: &TestGateway) -> Vec<Case> {
    vec![
        invalid("an unknown parameter", request(gateway, "GET", "/v1/sessions?page=2"), "page"),
        invalid(
            "a parameter of the path",
            request(gateway, "GET", "/v1/sessions/7?session_id=8"),
            "sessionId",
        ),
        invalid("a parameter of the body", json(gateway, "POST", "/v1/sessions?title=a", "{}"), "title"),
        invalid(
            "a parameter twice",
            request(gateway, "GET", "/v1/sessions?page_size=2&pageSize=2"),
            "pageSize",
        ),
        invalid(
            "a parameter that is no number",
            request(gateway, "GET", "/v1/sessions?page_size=two"),
            "pageSize",
        ),
        invalid(
            "a number out of range",
            request(gateway, "GET", "/v1/sessions?page_size=3000000000"),
            "pageSize",
        ),
        invalid(
            "a parameter that is no text",
            request(gateway, "GET", "/v1/sessions?page_token=%ff"),
            "page_token",
        ),
        invalid("a path that is no text", request(gateway, "GET", "/v1/sessions/%ff"), "sessionId"),
    ]
}

fn headers(gateway: &TestGateway) -> Vec<Case> {
    vec![
        invalid(
            "two cursors",
            request(gateway, "GET", "/v1/turns/7/events?last_event_id=1").header("last-event-id", "2"),
            "lastEventId",
        ),
        invalid(
            "a cursor that is no text",
            request(gateway, "GET", "/v1/turns/7/events").header("last-event-id", &b"\xff"[..]),
            "Last-Event-ID",
        ),
    ]
}

#[tokio::test]
async fn every_bad_request_learns_its_fault() {
    let gateway = TestGateway::open(echo).await;
    let groups: [fn(&TestGateway) -> Vec<Case>; 4] = [paths_and_methods, bodies, queries_and_paths, headers];
    let cases: Vec<Case> = groups.iter().flat_map(|cases| cases(&gateway)).collect();
    assert!(cases.len() > 25);
    for Case { name: what, request, status, code, field } in cases {
        let (got, headers, document) = problem(request).await;
        assert_eq!((got.as_u16(), document["code"].as_str().unwrap()), (status, code), "{what}: {document}");
        assert_eq!(document["errors"][0]["field"].as_str(), field, "{what}: {document}");
        assert_eq!(got == 405, headers.contains_key("allow"), "{what}");
        assert_eq!(document["retryable"], false, "{what}");
    }
    assert_eq!(gateway.upstream.count(), 0, "{:?}", gateway.upstream.calls());
}

#[tokio::test]
async fn the_methods_of_a_path_are_named() {
    let gateway = TestGateway::open(echo).await;
    for (method, path, allow) in [
        (Method::PUT, "/v1/sessions", "GET, POST"),
        (Method::DELETE, "/v1/turns/7:cancel", "GET, POST"),
        (Method::POST, "/openapi.json", "GET, HEAD"),
    ] {
        let (_, headers, _) = problem(gateway.request(method, path)).await;
        assert_eq!(headers["allow"], allow, "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_announced_or_not() {
    let gateway =
        TestGateway::with(steward_proto::DESCRIPTORS, |config| config.requests.max_body_bytes = 1000, echo)
            .await;
    let body = |size: usize| serde_json::json!({ "title": "x".repeat(size) }).to_string();
    let send = |body: reqwest::Body| {
        gateway.request(Method::POST, "/v1/sessions").header("content-type", "application/json").body(body)
    };
    assert_eq!(send(body(900).into()).send().await.unwrap().status(), 200);
    assert_eq!(problem(send(body(1000).into())).await.2["code"], "PAYLOAD_TOO_LARGE");
    // The body has no content-length, so the gateway finds that it is too long while it reads.
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(100)));
    let (status, _, document) = problem(send(reqwest::Body::wrap_stream(chunks))).await;
    assert_eq!((status.as_u16(), &document["code"]), (413, &serde_json::json!("PAYLOAD_TOO_LARGE")));
    assert_eq!(gateway.upstream.count(), 1);
}

#[tokio::test]
async fn a_file_of_one_mebibyte_fits_into_the_default_cap() {
    let gateway = TestGateway::open(|_| async { one(&WriteFileResponse { exec: None }) }).await;
    // Base64 makes four characters of every three bytes.
    let content = "A".repeat(1024 * 1024 / 3 * 4 + 4);
    let answer = gateway
        .post("/v1/sandboxes/7/files:write", &serde_json::json!({ "path": "a", "content": content }))
        .send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let call = gateway.upstream.only_call();
    assert!(call.message.len() > 1024 * 1024);
}

#[tokio::test]
async fn a_problem_never_echoes_a_credential() {
    let gateway = TestGateway::open(echo).await;
    for request in [
        gateway.get("/v1/nothing"),
        gateway.get(&format!("/v1/sessions?token={TOKEN}x")),
        gateway.anonymous(Method::GET, "/v1/sessions").bearer_auth("stw_other"),
    ] {
        let (_, _, document) = problem(request).await;
        assert!(!document["detail"].as_str().unwrap().contains("stw_"), "{document}");
    }
}
