//! Tests replicas that die, stop, stall or lose their database while they deliver a message.

use std::{os::unix::process::ExitStatusExt, process::Stdio};

use steward_proto::registry::v1::PauseAgentRequest;
use svc_core::{run::failpoint, testing::FaultProxy};
use tokio::process::Command;

use super::*;

/// Configures a replica that accepts messages and delivers none.
fn accepts_only(config: &mut Config) {
    impatient(config);
    config.own.relay.max_dispatches = 0;
}

impl Scene {
    /// Starts a replica in its own process, which delivers messages and is killed at the fail point `point`.
    async fn die_at(&self, point: &str) {
        let config = self.plane.config_file(&format!(
            "[process]\nfailpoints = '{point}=kill@1'\n[outbound]\nmode = 'dev'\n\
             [relay]\nlease = '1s'\nscan_period = '50ms'\n"
        ));
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-svc"));
        let mut replica = command.arg(config).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let died = tokio::time::timeout(Duration::from_secs(20), replica.wait()).await;
        assert_eq!(died.expect("it dies").unwrap().signal(), Some(9));
    }
}

#[tokio::test]
async fn after_a_crash_another_replica_delivers_the_message() {
    let mut scene = Scene::of(FakeAgent::start(Dialect::V03), accepts_only).await;
    let mut messages = Vec::new();
    // Each round kills a replica at a fail point: at `dispatched`, before the message reaches the agent, or
    // at `answered`, after the agent has answered.
    for (round, point, arrivals) in [
        (1, "registry.relay.dispatched", 0),
        (2, "registry.relay.answered", 1),
        (3, "registry.relay.dispatched", 3),
        (4, "registry.relay.answered", 4),
    ] {
        let sent = scene.say(Some(&format!("c{round}")), &format!("m{round}")).await;
        scene.die_at(point).await;
        let stored = scene.stored(&sent.message).await;
        assert_eq!((stored.state(), stored.attempts), (RelayState::Dispatched, 1), "{point}");
        assert_eq!(scene.fake.arrived().len(), arrivals, "{point}");
        messages.push(sent.message);
        if round == 2 || round == 4 {
            let heir = scene.plane.add_replica(impatient).await;
            for id in messages.drain(..) {
                let done = scene.becomes(&id, RelayState::Delivered).await;
                assert_eq!(done.attempts, 2);
            }
            scene.plane.stop_replica(heir).await;
        }
    }
    let heard = scene.fake.heard();
    for (round, times) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        let text = format!("m{round}");
        assert_eq!(heard.iter().filter(|heard| **heard == text).count(), times, "{text}");
    }
}

#[tokio::test]
async fn after_a_crash_a_message_to_a_paused_agent_expires() {
    let mut scene = Scene::of(FakeAgent::start(Dialect::V03), |config| {
        accepts_only(config);
        config.own.relay.ttl = Duration::from_secs(3);
    })
    .await;
    let sent = scene.say(Some("c"), "hi").await;
    scene.die_at("registry.relay.dispatched").await;
    assert_eq!(scene.stored(&sent.message).await.state(), RelayState::Dispatched);
    let request = PauseAgentRequest { agent_id: scene.agent.agent_id.clone() };
    scene.tenant.pause_agent(request).await.unwrap();
    scene.plane.add_replica(impatient).await;
    let expired = scene.becomes(&sent.message, RelayState::Expired).await;
    assert_eq!((expired.code.as_str(), expired.attempts), ("EXPIRED", 1));
}

#[tokio::test]
async fn a_worker_that_lost_its_lane_writes_nothing() {
    failpoint::arm("registry.relay.answered=sleep:2500@1").unwrap();
    let mut scene = Scene::of(FakeAgent::start(Dialect::V03), |_| {}).await;
    scene.plane.add_replica(quick).await;
    // The first worker has the answer and stalls beyond its lease; the second one sends the message again.
    let start = tokio::time::Instant::now();
    let sent = scene.say(Some("c"), "hi").await;
    assert_eq!((sent.status, sent.text()), (200, "hi #2"));
    assert!(start.elapsed() < Duration::from_millis(2500), "it did not wait for the first one");
    let next = scene.say(Some("c"), "next").await;
    tokio::time::sleep_until(start + Duration::from_secs(3)).await;
    let stored = scene.stored(&sent.message).await;
    assert_eq!((stored.state(), stored.attempts), (RelayState::Delivered, 2));
    assert!(stored.answer.contains("hi #2"), "the late answer was not written: {stored:?}");
    assert_eq!(scene.stored(&next.message).await.state(), RelayState::Delivered);
    assert_eq!(scene.count("SELECT pending::bigint FROM relay_lanes").await, 0);
    assert_eq!(scene.fake.heard(), ["hi", "hi", "next"]);
}

#[tokio::test]
async fn an_answer_during_a_postgres_outage_is_written_afterwards() {
    let mut scene = Scene::of(FakeAgent::start(Dialect::V03), accepts_only).await;
    let proxy = FaultProxy::start(scene.plane.db.address()).await;
    let through = scene.plane.db.config_through("registry", proxy.address());
    let change = |config: &mut Config| {
        impatient(config);
        // No other replica delivers, and the lease outlasts the outage.
        config.own.relay.lease = Duration::from_secs(10);
        config.base.pg = through;
    };
    scene.plane.add_replica(change).await;
    let release = scene.fake.hold("hi");
    let sent = scene.say(None, "hi").await;
    scene.hears(1).await;
    proxy.refuse();
    release.notify_one();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.stored(&sent.message).await.state(), RelayState::Dispatched);
    proxy.pass();
    let done = scene.becomes(&sent.message, RelayState::Delivered).await;
    assert_eq!((done.attempts, scene.fake.heard().len()), (1, 1));
}

#[tokio::test]
async fn a_stopping_replica_releases_its_lanes_and_its_senders() {
    let mut scene = Scene::of(FakeAgent::start(Dialect::V03), |config| {
        config.own.relay.drain = Duration::from_millis(200);
        // The test is over before the lease expires.
        config.own.relay.lease = Duration::from_secs(60);
    })
    .await;
    let _never = scene.fake.hold("hi");
    let (mut relay, id) = (scene.relay.clone(), scene.agent.agent_id.clone());
    let sender = async move { post(&mut relay, &id, "", &message_03("m", Some("c"), "hi")).await.unwrap() };
    let (sent, ()) = tokio::join!(sender, async {
        eventually("the agent hears it", async || (!scene.fake.heard().is_empty()).then_some(())).await;
        let start = tokio::time::Instant::now();
        scene.plane.stop_replica(0).await;
        assert!(start.elapsed() < Duration::from_secs(5));
    });
    // The sender was not cut off: it got a task that it can poll.
    assert_eq!((sent.status, &sent.body["result"]["status"]["state"]), (202, &json!("working")));
    let replica = scene.plane.add_replica(quick).await;
    scene.relay = RelayServiceClient::new(scene.plane.bearer_at(replica, &scene.secret).await);
    let done = scene.becomes(&sent.message, RelayState::Delivered).await;
    assert_eq!(done.attempts, 2);
}

#[tokio::test]
async fn an_idle_replica_stops_at_once() {
    let mut scene = Scene::start().await;
    assert_eq!(scene.say(None, "hi").await.status, 200);
    let start = tokio::time::Instant::now();
    scene.plane.stop_replica(0).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
