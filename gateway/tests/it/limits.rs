//! Tests the limits of each caller and of the process.

use std::time::Duration;

use futures::{StreamExt, stream};
use http::StatusCode;
use reqwest::Method;
use serde_json::json;
use svc_core::{
    testing::{FaultProxy, TestRedis},
    wire::principal::PrincipalKind,
};
use tokio::time::Instant;

use crate::{
    test_gateway::{TestGateway, account, principal, problem},
    upstream::echo,
};

async fn limited(redis: svc_core::data::redis::RedisConfig, per_second: u32, burst: u32) -> TestGateway {
    let change = |config: &mut gateway::Config| {
        config.redis = redis;
        config.rate_limit.per_second = per_second;
        config.rate_limit.burst = burst;
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, echo).await;
    let mut other = principal(PrincipalKind::Account, &["*"]);
    other.subject_id = "other".to_owned();
    gateway.tokens.add("stw_other", other);
    gateway
}

/// Sends `count` requests and returns the number that were answered 200; the rest must be answered 429.
async fn passed(gateway: &TestGateway, token: &str, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        let answer = gateway.anonymous(Method::GET, "/v1/sessions").bearer_auth(token).send().await.unwrap();
        match answer.status() {
            StatusCode::OK => passed += 1,
            status => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
        }
    }
    passed
}

#[tokio::test]
async fn two_gateways_count_one_callers_requests_together() {
    let redis = TestRedis::new();
    let first = limited(redis.config(), 1, 10).await;
    let second = limited(redis.config(), 1, 10).await;
    let start = Instant::now();
    let of_first = passed(&first, crate::test_gateway::TOKEN, 6).await;
    let of_second = passed(&second, crate::test_gateway::TOKEN, 12).await;
    let refilled = start.elapsed().as_secs() as usize + 1;
    assert_eq!(of_first, 6);
    assert!((4..=4 + refilled).contains(&of_second), "{of_second}");
    // Other accounts are not limited.
    assert_eq!(passed(&first, "stw_other", 5).await, 5);
}

#[tokio::test]
async fn a_refusal_says_when_to_retry_and_each_answer_what_is_left() {
    let redis = TestRedis::new();
    let gateway = limited(redis.config(), 1, 2).await;
    let answer = gateway.get("/v1/sessions").send().await.unwrap();
    assert_eq!(answer.headers()["ratelimit-policy"], "\"principal\";q=2;w=2");
    assert_eq!(answer.headers()["ratelimit"], "\"principal\";r=1;t=1");
    assert_eq!(passed(&gateway, crate::test_gateway::TOKEN, 1).await, 1);
    let (status, headers, document) = problem(gateway.get("/v1/sessions")).await;
    assert_eq!((status.as_u16(), &document["code"]), (429, &json!("RATE_LIMITED")));
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["ratelimit"], "\"principal\";r=0;t=2");
    // Refusals of other kinds have the headers too.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (status, headers, _) = problem(gateway.get("/v1/sessions?unknown=1")).await;
    assert!(status == 400 && headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn without_redis_each_gateway_counts_alone() {
    let redis = TestRedis::new();
    let proxy = FaultProxy::start(redis.address()).await;
    let gateway = limited(redis.config_through(proxy.address()), 1, 5).await;
    assert_eq!(passed(&gateway, crate::test_gateway::TOKEN, 3).await, 3);

    proxy.refuse();
    // The process's own bucket is full at first: 5 requests pass, plus those that fit while it refills.
    let alone = passed(&gateway, crate::test_gateway::TOKEN, 8).await;
    assert!((5..=7).contains(&alone), "{alone}");
    let metrics = gateway
        .http
        .get(format!("http://{}/metrics", gateway.operator))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("gateway_rate_limit_local"), "{metrics}");

    // Lets the gateway reconnect to Redis, then makes Redis hang: each request waits for Redis for a limited
    // time only.
    proxy.pass();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    proxy.stall();
    let start = Instant::now();
    let other = passed(&gateway, "stw_other", 5).await;
    assert!((4..=5).contains(&other), "{other}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    // Once Redis answers again, the bucket in Redis decides.
    proxy.cut();
    proxy.pass();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let shared = passed(&gateway, crate::test_gateway::TOKEN, 10).await;
    assert!((1..=8).contains(&shared), "{shared}");
}

#[tokio::test]
async fn more_requests_than_can_be_carried_are_shed() {
    let change = |config: &mut gateway::Config| {
        config.requests.max_in_flight = 2;
        config.requests.timeout = Duration::from_millis(800);
    };
    let gateway = TestGateway::with(steward_proto::DESCRIPTORS, change, |_| std::future::pending()).await;
    let slow = || async { problem(gateway.get("/v1/turns/7")).await.0 };
    let third = async {
        crate::test_gateway::eventually("two are open", || gateway.upstream.count() == 2).await;
        let start = Instant::now();
        let (status, _, document) = problem(gateway.get("/v1/turns/7")).await;
        assert!(start.elapsed() < Duration::from_millis(700));
        assert_eq!((status.as_u16(), &document["code"]), (503, &json!("OVERLOADED")));
    };
    let (first, second, ()) = tokio::join!(slow(), slow(), third);
    assert_eq!((first.as_u16(), second.as_u16()), (504, 504));
    // The ended requests no longer count against the limit.
    assert_eq!(slow().await.as_u16(), 504);
}

#[tokio::test]
async fn one_caller_cannot_take_every_stream() {
    let change = |config: &mut gateway::Config| {
        config.streams.max_per_principal = 2;
        config.streams.first_event = Duration::from_millis(50);
        config.requests.max_in_flight = 1;
    };
    let gateway =
        TestGateway::with(steward_proto::DESCRIPTORS, change, |_| async { Ok(stream::pending().boxed()) })
            .await;
    let mut other = principal(PrincipalKind::Account, &["*"]);
    other.subject_id = "other".to_owned();
    gateway.tokens.add("stw_other", other);
    let open = |token: &'static str| gateway.anonymous(Method::GET, "/v1/turns/7/events").bearer_auth(token);
    // Open streams do not count as requests: the request limit of 1 is not reached.
    let first = open(crate::test_gateway::TOKEN).send().await.unwrap();
    let second = open(crate::test_gateway::TOKEN).send().await.unwrap();
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let (status, _, document) = problem(open(crate::test_gateway::TOKEN)).await;
    assert_eq!((status.as_u16(), &document["code"]), (429, &json!("TOO_MANY_STREAMS")));
    assert_eq!(open("stw_other").send().await.unwrap().status(), 200);
    drop(first);
    for _ in 0..100 {
        if open(crate::test_gateway::TOKEN).send().await.unwrap().status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the room of {} was not given back", account());
}
