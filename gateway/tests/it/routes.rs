//! Tests the routes that are not in the contract.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::{
    test_gateway::{TestGateway, eventually},
    upstream::echo,
};

#[tokio::test]
async fn health_and_description_need_no_credential() {
    let gateway = TestGateway::open(echo).await;
    for path in ["/healthz", "/openapi.json"] {
        let answer = gateway.anonymous(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.headers().contains_key("x-request-id"));
        assert!(answer.json::<Value>().await.unwrap().is_object());
    }
    assert_eq!(gateway.upstream.count(), 0);
}

#[tokio::test]
async fn it_is_ready_once_every_service_has_answered() {
    let proxied = svc_core::testing::FaultProxy::start("127.0.0.1:1").await;
    let address = proxied.address();
    let change = |config: &mut gateway::Config| {
        config.peers.get_mut("purge").unwrap().urls = vec![format!("http://{address}")];
    };
    let waiting = TestGateway::with(steward_proto::DESCRIPTORS, change, echo).await;
    let ready = TestGateway::open(echo).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for base in [ready.url(""), format!("http://{}", ready.operator)] {
        let answer = ready.http.get(format!("{base}/readyz")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap()["services"]["purge"], "serving");
    }
    let answer = waiting.anonymous(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let report: Value = answer.json().await.unwrap();
    assert_eq!(
        (report["services"]["purge"].as_str(), report["services"]["chat"].as_str()),
        (Some("away"), Some("serving"))
    );
}

#[tokio::test]
async fn metrics_are_for_operators() {
    let gateway = TestGateway::open(echo).await;
    gateway.get("/v1/sessions").send().await.unwrap();
    gateway.anonymous(Method::GET, "/v1/nothing/secret-id").send().await.unwrap();
    eventually("a request is measured", || gateway.upstream.count() == 1).await;
    let text = gateway
        .http
        .get(format!("http://{}/metrics", gateway.operator))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains("http_server_request_duration_seconds_count{"), "{text}");
    assert!(text.contains("http_route=\"/v1/sessions\""), "{text}");
    assert!(!text.contains("secret-id"), "{text}");
    assert_eq!(gateway.anonymous(Method::GET, "/metrics").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn only_pages_of_configured_origins_may_call() {
    let ours = "https://console.example";
    let change = |config: &mut gateway::Config| {
        config.cors.origins = vec![gateway::testing::Origin::try_from(ours.to_owned()).unwrap()];
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, echo).await;
    let ask = |origin: &str| {
        let request = gateway.anonymous(Method::OPTIONS, "/v1/sessions").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let allowed = ask(ours).await.unwrap();
    assert_eq!(
        (allowed.status().as_u16(), &allowed.headers()["access-control-allow-origin"]),
        (200, &ours.parse().unwrap())
    );
    let headers = allowed.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
    for name in ["authorization", "content-type", "last-event-id", "idempotency-key"] {
        assert!(headers.contains(name), "{headers}");
    }
    assert!(
        !ask("https://evil.example").await.unwrap().headers().contains_key("access-control-allow-origin")
    );
    // A web page must be able to read a refusal too.
    let refused = gateway.anonymous(Method::GET, "/v1/sessions").header("origin", ours).send().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["access-control-allow-origin"]),
        (401, &ours.parse().unwrap())
    );
}
