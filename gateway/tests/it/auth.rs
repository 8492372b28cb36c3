//! Tests authentication, scopes and the revocation of tokens.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use steward_proto::registry::v1 as registry;
use svc_core::{
    error::{ErrorKind, status},
    wire::principal::PrincipalKind,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    test_gateway::{PROBE, TOKEN, TestGateway, account, config, principal, problem},
    upstream::{Upstream, echo, one},
};

#[tokio::test]
async fn every_bad_credential_is_refused_in_the_same_words() {
    let gateway = TestGateway::open(echo).await;
    gateway.tokens.add("stw_revoked", principal(PrincipalKind::Account, &["*"]));
    gateway.tokens.revoke("stw_revoked");
    let headers = [
        None,
        Some("stw_account".to_owned()),
        Some("Bearer".to_owned()),
        Some("Bearer sk-1234".to_owned()),
        Some("Bearer stw_unknown".to_owned()),
        Some("Bearer stw_revoked".to_owned()),
        Some("Bearer stw_account x".to_owned()),
        Some("Basic stw_account".to_owned()),
        Some(format!("Bearer stw_{}", "x".repeat(5000))),
    ];
    let mut first: Option<Value> = None;
    for header in headers {
        let mut request = gateway.anonymous(Method::GET, "/v1/sessions").header("x-request-id", "same");
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let (status, headers, document) = problem(request).await;
        assert_eq!(status.as_u16(), 401, "{header:?}");
        assert_eq!(headers["www-authenticate"], "Bearer");
        assert_eq!(first.get_or_insert_with(|| document.clone()), &document, "{header:?}");
    }
    assert_eq!(gateway.upstream.count(), 0);
}

#[tokio::test]
async fn kind_and_scope_decide_who_may_call() {
    let gateway = TestGateway::with(&PROBE, |_| {}, echo).await;
    gateway.tokens.add("stw_reader", principal(PrincipalKind::Account, &["probes:read"]));
    gateway.tokens.add("stw_writer", principal(PrincipalKind::Account, &["probes:write"]));
    gateway.tokens.add("stw_no_scope", principal(PrincipalKind::Account, &[]));
    gateway.tokens.add("stw_admin", principal(PrincipalKind::Admin, &[]));
    gateway.tokens.add("stw_agent", principal(PrincipalKind::Agent, &["*"]));
    for (token, path, status) in [
        (TOKEN, "/v1/probes/a", 200),
        ("stw_reader", "/v1/probes/a", 200),
        ("stw_writer", "/v1/probes/a", 403),
        ("stw_no_scope", "/v1/probes/a", 403),
        ("stw_agent", "/v1/probes/a", 403),
        ("stw_admin", "/v1/probes/a", 403),
        ("stw_admin", "/v1/admin", 200),
        (TOKEN, "/v1/admin", 403),
        ("stw_no_scope", "/v1/probes", 200),
        ("stw_unknown", "/v1/public", 200),
    ] {
        let answer = gateway.anonymous(Method::GET, path).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{token} at {path}");
    }
    let answer = gateway.anonymous(Method::GET, "/v1/public").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let (_, _, document) = problem(gateway.anonymous(Method::GET, "/v1/admin").bearer_auth(TOKEN)).await;
    assert_eq!(document["code"], "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_credential_that_cannot_be_checked_is_a_503() {
    let gateway = TestGateway::open(echo).await;
    gateway.tokens.away(true);
    let (status, _, document) = problem(gateway.get("/v1/sessions")).await;
    assert_eq!((status.as_u16(), document["retryable"].as_bool()), (503, Some(true)));
    assert!(!document.to_string().contains("10.0.0.9"), "{document}");
    // The gateway does not cache the failed lookup.
    gateway.tokens.away(false);
    assert_eq!(gateway.get("/v1/sessions").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn verdicts_are_remembered_good_ones_for_longer() {
    let gateway = TestGateway::open(echo).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/v1/sessions").send().await.unwrap().status(), 200);
    }
    assert_eq!(gateway.tokens.asked(), 1);
    let refused = || gateway.anonymous(Method::GET, "/v1/sessions").bearer_auth("stw_late");
    for _ in 0..5 {
        assert_eq!(problem(refused()).await.0, 401);
    }
    assert_eq!(gateway.tokens.asked(), 2);
    // The gateway caches a refusal for one second and a principal for five. So a new token works after about
    // one second, and a revoked token stops working within five.
    gateway.tokens.add("stw_late", principal(PrincipalKind::Account, &["*"]));
    gateway.tokens.revoke(TOKEN);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(refused().send().await.unwrap().status(), 200);
    tokio::time::sleep(Duration::from_millis(3900)).await;
    assert_eq!(problem(gateway.get("/v1/sessions")).await.0, 401);
}

#[tokio::test]
async fn no_body_is_read_of_a_caller_that_is_refused() {
    let gateway = TestGateway::open(echo).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    // The head announces a body that is never sent.
    let head = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(2), stream.read_exact(&mut answer));
    read.await.expect("an answer without the body").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test]
async fn tokens_are_resolved_at_the_registry() {
    let registry = Upstream::start(Vec::new(), |call| async move {
        assert_eq!(call.path, "/steward.registry.v1.AuthService/Authenticate");
        let request: registry::AuthenticateRequest = call.decode();
        match request.token.as_str() {
            "stw_good" => one(&registry::AuthenticateResponse {
                principal: Some((&principal(PrincipalKind::Account, &["sessions:read"])).into()),
                expires_at: None,
            }),
            "stw_broken" => Err(tonic::Status::unknown("oops")),
            _ => Err(status(ErrorKind::Unauthenticated, "TOKEN_NOT_LIVE", "token is not live", None, &[])),
        }
    })
    .await;
    let gateway = TestGateway::open(echo).await;
    // Builds this gateway as a real process does: it resolves tokens at registry-svc.
    let mut config = config(gateway.files(), gateway.upstream.address);
    config.peers.get_mut("registry").unwrap().urls = vec![format!("http://{}", registry.address)];
    let deps = gateway::testing::Deps::real(crate::test_gateway::metrics());
    let built = gateway::testing::Gateway::build(config, deps).await.unwrap();
    let address = built.address().unwrap();
    built.start(&gateway.lifecycle);
    let get = |token: &str| gateway.http.get(format!("http://{address}/v1/sessions")).bearer_auth(token);
    assert_eq!(get("stw_good").send().await.unwrap().status(), 200);
    assert_eq!(problem(get("stw_bad")).await.0, 401);
    assert_eq!(problem(get("stw_broken")).await.0, 503);
    let stated = gateway.upstream.only_call().principal.unwrap();
    assert_eq!((stated.account_id, stated.scopes), (Some(account()), vec!["sessions:read".to_owned()]));
    let (status, _, document) = problem(
        gateway.http.post(format!("http://{address}/v1/sessions")).bearer_auth("stw_good").json(&json!({})),
    )
    .await;
    assert_eq!((status.as_u16(), &document["code"]), (403, &json!("PERMISSION_DENIED")));
}
