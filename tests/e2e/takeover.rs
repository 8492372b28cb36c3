//! Turns outlive processes: the replica that runs one is killed, frozen or stopped, and another goes on.

use std::time::{Duration, Instant};

use serde_json::json;
use steward::plane::Service;
use suite_tests::{
    actors::{Seen, Tenant},
    cluster::{Builder, Cluster},
};

/// Long enough for everything that happens to it.
const INPUT: &str = "count to 60 every 100ms";
/// From a death to the next event of another replica, at production times.
const PROMISE: Duration = Duration::from_secs(15);

struct Scene {
    cluster: Cluster,
    tenant: Tenant,
    turn: String,
    watching: tokio::task::JoinHandle<(Seen, Instant)>,
}

/// A turn that runs on the replica "chat" with "chat-2" standing by, and a client that watches it.
async fn scene(builder: Builder) -> Scene {
    let mut cluster = builder.replicas(Service::Chat, 2).start().await;
    let tenant = cluster.tenant("survivor").await;
    let session = tenant.session().await;
    // With the other one down there is no doubt who takes it.
    cluster.process("chat-2").kill().await;
    let turn = tenant.begin(&session, INPUT).await;
    while tenant.turn(&turn).await["status"] != "TURN_STATUS_RUNNING" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.process("chat-2").run();
    cluster.plane.until_ready(Duration::from_secs(30)).await.unwrap();
    let watching = watch(&tenant, &turn);
    Scene { cluster, tenant, turn, watching }
}

#[expect(clippy::disallowed_methods, reason = "a client beside the scenario; the test waits for it")]
fn watch(tenant: &Tenant, turn: &str) -> tokio::task::JoinHandle<(Seen, Instant)> {
    let (tenant, turn) = (tenant.clone(), turn.to_owned());
    tokio::spawn(async move { (tenant.watch(&turn, "").await, Instant::now()) })
}

impl Scene {
    /// Waits for the end and checks what the client saw of it; returns when that was.
    async fn ends_well(&mut self) -> Instant {
        let (seen, at) =
            tokio::time::timeout(Duration::from_secs(60), &mut self.watching).await.unwrap().unwrap();
        seen.assert_whole();
        assert_eq!(seen.kinds().last(), Some(&"turn.completed"), "{}", self.cluster.logs());
        let numbers: Vec<String> = (1..=60).map(|number| number.to_string()).collect();
        let said: Vec<String> = seen
            .text()
            .split(|character: char| !character.is_ascii_digit())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        assert_eq!(said, numbers);
        assert_eq!(self.tenant.watch(&self.turn, "").await, seen, "a replay differs from what was seen live");
        assert_eq!(self.tenant.turn(&self.turn).await["attempts"], json!(2));
        at
    }
}

#[tokio::test]
async fn a_killed_replica_is_replaced_within_the_promise() {
    let mut scene = scene(Cluster::builder().production_times()).await;
    scene.cluster.process("chat").kill().await;
    let killed = Instant::now();
    let ended = scene.ends_well().await;
    // The new attempt counts from the start, in six seconds.
    assert!(ended - killed < PROMISE + Duration::from_secs(7), "{:?}", ended - killed);
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_frozen_replica_writes_nothing_when_it_wakes() {
    let mut scene = scene(Cluster::builder()).await;
    scene.cluster.process("chat").freeze();
    tokio::time::sleep(Duration::from_secs(4)).await;
    // It wakes in the middle of the other's attempt, with its own words still in its buffers.
    scene.cluster.process("chat").thaw();
    scene.ends_well().await;
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_replica_that_is_asked_to_stop_hands_its_turn_over() {
    let mut scene = scene(Cluster::builder()).await;
    let asked = Instant::now();
    let status = scene.cluster.process("chat").terminate().await;
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    let (seen, _) =
        tokio::time::timeout(Duration::from_secs(60), &mut scene.watching).await.unwrap().unwrap();
    seen.assert_whole();
    assert_eq!(seen.kinds().last(), Some(&"turn.completed"));
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_plane_that_is_asked_to_stop_stops_in_time_and_well() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("last").await;
    let session = tenant.session().await;
    let turn = tenant.begin(&session, INPUT).await;
    let _left_behind = watch(&tenant, &turn);
    // Checks each process's exit code and the time it took.
    cluster.stop().await;
}
