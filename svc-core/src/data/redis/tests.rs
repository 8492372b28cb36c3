//! Tests the connection to a real Redis, also through a proxy that stalls, refuses and cuts connections.

use super::*;
use crate::testing::{FaultProxy, TestRedis};

const FAMILY: KeyFamily = KeyFamily { name: "test", class: Class::System, text: "Made for a test" };

fn set(redis: &Redis, value: i32) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(redis.key(&FAMILY, "a")).arg(value);
    command
}

/// Waits until a call reaches Redis again.
async fn back(redis: &Redis) {
    let asked = Instant::now();
    while redis.ping().await.is_err() {
        assert!(asked.elapsed() < Duration::from_secs(5), "Redis did not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn commands_pipelines_and_scripts_are_answered() {
    let server = TestRedis::new();
    let redis = server.redis();
    redis.query::<()>(&set(&redis, 7)).await.unwrap();
    let key = redis.key(&FAMILY, "a");
    assert!(key.starts_with(redis.prefix()) && key.ends_with("test:a"), "{key}");
    let (a, b): (i32, Option<i32>) =
        redis.pipeline(redis::pipe().get(&key).get(redis.key(&FAMILY, "b"))).await.unwrap();
    assert_eq!((a, b), (7, None));
    // The server does not know this script yet, so the call loads it.
    let script =
        redis::Script::new(&format!("return redis.call('GET', KEYS[1]) + 1 -- {}", crate::id::new_id()));
    assert_eq!(redis.script::<i32>(&script.key(&key)).await.unwrap(), 8);
}

#[tokio::test]
async fn first_users_share_one_connection() {
    let server = TestRedis::new();
    let redis = server.redis();
    for answer in futures::future::join_all((0..50).map(|_| redis.ping())).await {
        answer.unwrap();
    }
    assert_eq!(redis.link().made, 1);
}

#[tokio::test]
async fn a_wrong_command_is_no_outage() {
    let server = TestRedis::new();
    let redis = server.redis();
    redis.query::<()>(&set(&redis, 7)).await.unwrap();
    let error = redis.query::<()>(redis::cmd("LPUSH").arg(redis.key(&FAMILY, "a")).arg(1)).await.unwrap_err();
    assert!(!error.is_down() && error.kind() == Kind::Internal, "{error:?}");
    redis.ping().await.unwrap();
    assert_eq!(redis.link().made, 1);
}

#[tokio::test]
async fn a_dead_redis_costs_little_and_is_found_again() {
    let server = TestRedis::new();
    let proxy = FaultProxy::start(server.address()).await;
    let redis = server.redis_through(proxy.address());
    redis.ping().await.unwrap();
    for fail in [FaultProxy::refuse, FaultProxy::stall] {
        fail(&proxy);
        let asked = Instant::now();
        // Waits for two time limits: one until the present connection counts as broken, one for a new
        // connection.
        while redis.seems_up() {
            let error = redis.ping().await.unwrap_err();
            assert!(error.is_down(), "{error:?}");
        }
        assert!(asked.elapsed() < Duration::from_secs(3), "took {:?}", asked.elapsed());
        // After the failure one call at a time tries to connect, and no other call waits.
        let asked = Instant::now();
        let answers = futures::future::join_all((0..1000).map(|_| redis.ping())).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Down(_)))));
        let most = proxy_limit(&redis);
        assert!(asked.elapsed() < most, "1000 calls took {:?}", asked.elapsed());
        proxy.pass();
        proxy.cut();
        back(&redis).await;
    }
}

/// Returns the maximum time of one attempt to connect, with 200 ms for a busy machine.
fn proxy_limit(redis: &Redis) -> Duration {
    redis.0.connect_timeout + redis.0.response_timeout + Duration::from_millis(200)
}

#[tokio::test]
async fn a_cut_connection_is_replaced_at_once() {
    let server = TestRedis::new();
    let proxy = FaultProxy::start(server.address()).await;
    let redis = server.redis_through(proxy.address());
    redis.ping().await.unwrap();
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // This call finds the connection closed and fails; the next one opens a new connection.
    assert!(redis.ping().await.unwrap_err().is_down());
    redis.ping().await.unwrap();
}
