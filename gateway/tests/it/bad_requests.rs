//! Requests that are wrong: each is told what, none reaches a service.

use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use steward_proto::sandbox::v1::WriteFileResponse;

use crate::{
    door::{Door, TOKEN, problem},
    upstream::{echo, one},
};

#[tokio::test]
async fn every_wrong_request_is_told_what_is_wrong() {
    let door = Door::open(echo).await;
    let request = |method: &str, path: &str| door.request(method.parse().unwrap(), path);
    let json = |method: &str, path: &str, body: &str| -> RequestBuilder {
        request(method, path).header(header::CONTENT_TYPE, "application/json").body(body.to_owned())
    };
    let cases: Vec<(&str, RequestBuilder, u16, &str, Option<&str>)> = vec![
        // Paths and methods.
        ("no such path", request("GET", "/v1/nothing"), 404, "ROUTE_NOT_FOUND", None),
        ("the root", request("GET", "/"), 404, "ROUTE_NOT_FOUND", None),
        ("a trailing slash", request("GET", "/v1/sessions/"), 404, "ROUTE_NOT_FOUND", None),
        ("an empty segment", request("GET", "/v1/sessions//messages"), 404, "ROUTE_NOT_FOUND", None),
        ("a verb nobody has", request("POST", "/v1/sessions/7/turns:walk"), 404, "ROUTE_NOT_FOUND", None),
        (
            "a method without a door",
            request("POST", "/steward.registry.v1.AuthService/Authenticate"),
            404,
            "ROUTE_NOT_FOUND",
            None,
        ),
        ("another method", request("PUT", "/v1/sessions"), 405, "METHOD_NOT_ALLOWED", None),
        (
            "another method of a verb",
            request("GET", "/v1/sessions/7/turns:run"),
            405,
            "METHOD_NOT_ALLOWED",
            None,
        ),
        (
            "another method of a hand-written route",
            request("POST", "/healthz"),
            405,
            "METHOD_NOT_ALLOWED",
            None,
        ),
        // Bodies.
        (
            "a form",
            request("POST", "/v1/sessions")
                .header("content-type", "application/x-www-form-urlencoded")
                .body("title=a"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            None,
        ),
        (
            "a body of no type",
            request("POST", "/v1/sessions").body("{}"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            None,
        ),
        (
            "a compressed body",
            json("POST", "/v1/sessions", "{}").header("content-encoding", "gzip"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            None,
        ),
        ("a body that is no JSON", json("POST", "/v1/sessions", "{"), 400, "INVALID_ARGUMENT", Some("body")),
        ("two JSON texts", json("POST", "/v1/sessions", "{} {}"), 400, "INVALID_ARGUMENT", Some("body")),
        ("a JSON list", json("POST", "/v1/sessions", "[]"), 400, "INVALID_ARGUMENT", Some("body")),
        (
            "an unknown field",
            json("POST", "/v1/sessions", r#"{"titel": "a"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("titel"),
        ),
        (
            "a field twice",
            json("POST", "/v1/sessions", r#"{"title": "a", "title": "b"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("title"),
        ),
        (
            "a field in both spellings",
            json("POST", "/v1/sessions", r#"{"inputPolicy": 1, "input_policy": 1}"#),
            400,
            "INVALID_ARGUMENT",
            Some("input_policy"),
        ),
        (
            "a number for a text",
            json("POST", "/v1/sessions", r#"{"title": 7}"#),
            400,
            "INVALID_ARGUMENT",
            Some("title"),
        ),
        (
            "an unknown enum value",
            json("POST", "/v1/sessions", r#"{"inputPolicy": "MAYBE"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("inputPolicy"),
        ),
        (
            "a field of the path in the body",
            json("POST", "/v1/sessions/7/turns", r#"{"sessionId": "8"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("sessionId"),
        ),
        (
            "a bad duration",
            json("POST", "/v1/sandboxes/7/execs", r#"{"timeout": "soon"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("timeout"),
        ),
        (
            "bytes that are no base64",
            json("POST", "/v1/sandboxes/7/files:write", r#"{"content": "%"}"#),
            400,
            "INVALID_ARGUMENT",
            Some("content"),
        ),
        (
            "a list of another type",
            json("POST", "/v1/sandboxes/7/execs", r#"{"argv": ["a", 7]}"#),
            400,
            "INVALID_ARGUMENT",
            Some("argv[1]"),
        ),
        (
            "a negative number",
            json("POST", "/v1/sandboxes/7/files:write", r#"{"mode": -1}"#),
            400,
            "INVALID_ARGUMENT",
            Some("mode"),
        ),
        (
            "a map of another type",
            json("POST", "/v1/sandboxes/7/execs", r#"{"env": {"A": 7}}"#),
            400,
            "INVALID_ARGUMENT",
            Some("env.A"),
        ),
        (
            "a body where there is none",
            json("GET", "/v1/sessions", "{}"),
            400,
            "INVALID_ARGUMENT",
            Some("body"),
        ),
        // Queries and paths.
        (
            "an unknown parameter",
            request("GET", "/v1/sessions?page=2"),
            400,
            "INVALID_ARGUMENT",
            Some("page"),
        ),
        (
            "a parameter of the path",
            request("GET", "/v1/sessions/7?session_id=8"),
            400,
            "INVALID_ARGUMENT",
            Some("sessionId"),
        ),
        (
            "a parameter of the body",
            json("POST", "/v1/sessions?title=a", "{}"),
            400,
            "INVALID_ARGUMENT",
            Some("title"),
        ),
        (
            "a parameter twice",
            request("GET", "/v1/sessions?page_size=2&pageSize=2"),
            400,
            "INVALID_ARGUMENT",
            Some("pageSize"),
        ),
        (
            "a parameter that is no number",
            request("GET", "/v1/sessions?page_size=two"),
            400,
            "INVALID_ARGUMENT",
            Some("pageSize"),
        ),
        (
            "a number out of range",
            request("GET", "/v1/sessions?page_size=3000000000"),
            400,
            "INVALID_ARGUMENT",
            Some("pageSize"),
        ),
        (
            "a parameter that is no text",
            request("GET", "/v1/sessions?page_token=%ff"),
            400,
            "INVALID_ARGUMENT",
            Some("page_token"),
        ),
        (
            "a path that is no text",
            request("GET", "/v1/sessions/%ff"),
            400,
            "INVALID_ARGUMENT",
            Some("sessionId"),
        ),
        // Headers.
        (
            "two places to go on from",
            request("GET", "/v1/turns/7/events?last_event_id=1").header("last-event-id", "2"),
            400,
            "INVALID_ARGUMENT",
            Some("lastEventId"),
        ),
        (
            "a place that is no text",
            request("GET", "/v1/turns/7/events").header("last-event-id", &b"\xff"[..]),
            400,
            "INVALID_ARGUMENT",
            Some("Last-Event-ID"),
        ),
    ];
    assert!(cases.len() > 25);
    for (what, request, status, code, field) in cases {
        let (got, headers, document) = problem(request).await;
        assert_eq!((got.as_u16(), document["code"].as_str().unwrap()), (status, code), "{what}: {document}");
        assert_eq!(document["errors"][0]["field"].as_str(), field, "{what}: {document}");
        assert_eq!(got == 405, headers.contains_key("allow"), "{what}");
        assert_eq!(document["retryable"], false, "{what}");
    }
    assert_eq!(door.upstream.count(), 0, "{:?}", door.upstream.calls());
}

#[tokio::test]
async fn the_methods_of_a_path_are_named() {
    let door = Door::open(echo).await;
    for (method, path, allow) in [
        (Method::PUT, "/v1/sessions", "GET, POST"),
        (Method::DELETE, "/v1/turns/7:cancel", "GET, POST"),
        (Method::POST, "/openapi.json", "GET, HEAD"),
    ] {
        let (_, headers, _) = problem(door.request(method, path)).await;
        assert_eq!(headers["allow"], allow, "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_announced_or_not() {
    let door =
        Door::with(steward_proto::DESCRIPTORS, |config| config.requests.max_body_bytes = 1000, echo).await;
    let body = |size: usize| json!({ "title": "x".repeat(size) }).to_string();
    let send = |body: reqwest::Body| {
        door.request(Method::POST, "/v1/sessions").header("content-type", "application/json").body(body)
    };
    assert_eq!(send(body(900).into()).send().await.unwrap().status(), 200);
    assert_eq!(problem(send(body(1000).into())).await.2["code"], "PAYLOAD_TOO_LARGE");
    // Without a length, the cap is met while reading.
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(100)));
    let (status, _, document) = problem(send(reqwest::Body::wrap_stream(chunks))).await;
    assert_eq!((status.as_u16(), &document["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
    assert_eq!(door.upstream.count(), 1);
}

#[tokio::test]
async fn a_file_of_one_mebibyte_fits_into_the_default_cap() {
    let door = Door::open(|_| async { one(&WriteFileResponse { exec: None }) }).await;
    // Every three bytes are four characters.
    let content = "A".repeat(1024 * 1024 / 3 * 4 + 4);
    let answer = door.post("/v1/sandboxes/7/files:write", &json!({ "path": "a", "content": content })).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let call = door.upstream.only_call();
    assert!(call.message.len() > 1024 * 1024);
}

#[tokio::test]
async fn a_problem_never_echoes_a_credential() {
    let door = Door::open(echo).await;
    for request in [
        door.get("/v1/nothing"),
        door.get(&format!("/v1/sessions?token={TOKEN}x")),
        door.anonymous(Method::GET, "/v1/sessions").bearer_auth("stw_other"),
    ] {
        let (_, _, document) = problem(request).await;
        assert!(!document["detail"].as_str().unwrap().contains("stw_"), "{document}");
    }
}
