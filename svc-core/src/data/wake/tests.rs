//! Tests wake-ups through a real Redis, also behind a proxy that cuts and stalls connections.

use tokio::time::{Instant, timeout};

use super::*;
use crate::testing::{FaultProxy, TestRedis};

const SOON: Duration = Duration::from_secs(5);

fn message(text: &'static str) -> Hint {
    Hint::Message(Bytes::from_static(text.as_bytes()))
}

/// Returns the next message. Skips [`Hint::Look`], which the hub also sends after it has connected.
async fn next_message(subscription: &mut Subscription) -> Hint {
    timeout(SOON, async {
        loop {
            match subscription.recv().await {
                Hint::Look => {}
                hint @ Hint::Message(_) => return hint,
            }
        }
    })
    .await
    .unwrap()
}

/// Publishes until a hint arrives, because the test cannot see when the hub has connected. Returns that hint.
async fn publish_until_heard(wake: &Wake, topic: &str, subscription: &mut Subscription) -> Hint {
    let asked = Instant::now();
    loop {
        wake.publish(topic, b"again").await;
        match subscription.next(Duration::from_millis(50)).await {
            Hint::Look => assert!(asked.elapsed() < SOON, "nothing is heard"),
            hint @ Hint::Message(_) => return hint,
        }
    }
}

#[tokio::test]
async fn every_replica_gets_hints_published_after_subscribing() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let (here, there) = (Wake::start(&server.redis(), &lifecycle), Wake::start(&server.redis(), &lifecycle));
    // The hubs connect before there is any subscription.
    let mut ears = Vec::new();
    for wake in [&here, &here, &there] {
        ears.push(wake.subscribe("turn:1").await);
    }
    let mut deaf = there.subscribe("turn:2").await;
    publish_until_heard(&here, "turn:1", &mut ears[0]).await;
    publish_until_heard(&here, "turn:1", &mut ears[2]).await;
    let heard = here.publish_all([("turn:1", &b"last"[..]), ("turn:3", b"other")]).await;
    assert_eq!(heard, 2, "one connection a hub");
    for ear in &mut ears {
        while next_message(ear).await != message("last") {}
    }
    assert_eq!(deaf.next(Duration::from_millis(100)).await, Hint::Look);
}

#[tokio::test]
async fn a_subscription_is_confirmed_before_it_is_handed_out() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let wake = Wake::start(&server.redis(), &lifecycle);
    let mut first = wake.subscribe("warm").await;
    publish_until_heard(&wake, "warm", &mut first).await;
    for round in 0..50 {
        let topic = format!("turn:{round}");
        let mut subscription = wake.subscribe(&topic).await;
        wake.publish(&topic, b"once").await;
        assert_eq!(timeout(SOON, subscription.recv()).await.unwrap(), message("once"), "round {round}");
    }
}

#[tokio::test]
async fn topics_without_readers_are_dropped_and_come_back() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let redis = server.redis();
    let wake = Wake::start(&redis, &lifecycle);
    let mut first = wake.subscribe("turn:1").await;
    publish_until_heard(&wake, "turn:1", &mut first).await;
    let second = wake.subscribe("turn:1").await;
    drop(first);
    assert_eq!(server.listeners("turn:1").await, 1);
    drop(second);
    let asked = Instant::now();
    while server.listeners("turn:1").await != 0 {
        assert!(asked.elapsed() < SOON, "still subscribed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..20 {
        drop(wake.subscribe("turn:1").await);
        let mut again = wake.subscribe("turn:1").await;
        wake.publish("turn:1", b"once").await;
        assert_eq!(timeout(SOON, again.recv()).await.unwrap(), message("once"));
    }
}

#[tokio::test]
async fn after_an_outage_readers_look_and_get_hints_again() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let proxy = FaultProxy::start(server.address()).await;
    let wake = Wake::start(&server.redis_through(proxy.address()), &lifecycle);
    let publisher = Wake::start(&server.redis(), &lifecycle);
    let mut subscription = wake.subscribe("turn:1").await;
    publish_until_heard(&publisher, "turn:1", &mut subscription).await;
    for fail in [FaultProxy::cut, FaultProxy::stall] {
        fail(&proxy);
        // Waits until the hub has noticed that a ping gets no answer.
        tokio::time::sleep(PING_PERIOD + Duration::from_secs(1)).await;
        publisher.publish("turn:1", b"lost or not").await;
        proxy.pass();
        // This [`Hint::Look`] comes from the hub, because `recv` does not poll.
        while timeout(SOON, subscription.recv()).await.unwrap() != Hint::Look {}
        publish_until_heard(&publisher, "turn:1", &mut subscription).await;
    }
}

#[tokio::test]
async fn without_redis_no_call_waits_and_readers_poll() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let proxy = FaultProxy::start(server.address()).await;
    proxy.refuse();
    let wake = Wake::start(&server.redis_through(proxy.address()), &lifecycle);
    let asked = Instant::now();
    let mut subscription = wake.subscribe("turn:1").await;
    wake.publish("turn:1", b"unheard").await;
    assert_eq!(subscription.next(Duration::from_millis(100)).await, Hint::Look);
    assert!(asked.elapsed() < Duration::from_secs(2), "took {:?}", asked.elapsed());
    // The hub subscribes when Redis is reachable again.
    proxy.pass();
    publish_until_heard(&wake, "turn:1", &mut subscription).await;
}

#[tokio::test]
async fn a_slow_reader_is_asked_to_look() {
    let (server, lifecycle) = (TestRedis::new(), Lifecycle::new());
    let wake = Wake::start(&server.redis(), &lifecycle);
    let mut slow = wake.subscribe("turn:1").await;
    let mut quick = wake.subscribe("turn:1").await;
    publish_until_heard(&wake, "turn:1", &mut quick).await;
    let flood: Vec<(&str, &[u8])> = vec![("turn:1", b"flood"); BACKLOG * 2];
    wake.publish_all(flood).await;
    wake.publish("turn:1", b"last").await;
    // The quick reader has received all messages before the slow one begins.
    timeout(SOON, async { while quick.recv().await != message("last") {} }).await.unwrap();
    assert_eq!(slow.recv().await, Hint::Look);
}
