//! Tests that turns outlive processes: the replica that runs a turn is killed, suspended or stopped, and
//! another replica continues the turn.

use std::time::{Duration, Instant};

use serde_json::json;
use steward::plane::Service;
use suite_tests::{
    actors::{Seen, Tenant},
    cluster::{Builder, Cluster},
    eventually::eventually,
    rounds::report,
    witness::Testimony,
};
use tokio::task::JoinSet;

use crate::erasure::{committed, purge};

/// An input with a turn of 6 s, so that each fault of these tests happens while it runs.
const INPUT: &str = "count to 60 every 100ms";
/// Maximum time from the death of a replica to the next event of another one, with production times.
const PROMISE: Duration = Duration::from_secs(15);
/// Maximum time from SIGTERM to the end of a process.
const DRAIN: Duration = Duration::from_secs(25);
const TIMEOUT: Duration = Duration::from_secs(60);

struct Scene {
    cluster: Cluster,
    tenant: Tenant,
    session: String,
    clients: JoinSet<Testimony>,
}

/// Starts a turn on the replica "chat" and a client that watches it; "chat-2" runs too and has no turn.
async fn scene(builder: Builder) -> Scene {
    let mut cluster = builder.replicas(Service::Chat, 2).start().await;
    let tenant = cluster.tenant("survivor").await;
    let session = tenant.session().await;
    // While "chat-2" is down, only "chat" can claim the turn.
    cluster.process("chat-2").kill().await;
    let mut scene = Scene { cluster, tenant, session: session.clone(), clients: JoinSet::new() };
    scene.run(&session, INPUT).await;
    scene.cluster.process("chat-2").run();
    scene.cluster.plane.until_ready(TIMEOUT).await.unwrap();
    scene
}

fn watch(clients: &mut JoinSet<Testimony>, tenant: &Tenant, turn: &str) {
    let (tenant, turn) = (tenant.clone(), turn.to_owned());
    clients.spawn(async move { tenant.witness(&turn, TIMEOUT).await });
}

impl Scene {
    /// Begins a turn, waits until it runs, and watches it.
    async fn run(&mut self, session: &str, input: &str) {
        let turn = self.tenant.begin(session, input).await;
        while self.tenant.turn(&turn).await["status"] != "TURN_STATUS_RUNNING" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watch(&mut self.clients, &self.tenant, &turn);
    }

    /// Waits for the end of every turn and checks the record of its client. Returns the longest time from
    /// `moment` to the next event that a client received.
    async fn ends_well(&mut self, moment: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        while let Some(testimony) = self.clients.join_next().await {
            let testimony = testimony.unwrap();
            self.cluster.verify(&self.tenant, &testimony).await;
            longest = longest.max(testimony.silence_after(moment).unwrap());
            assert_eq!(self.tenant.turn(&testimony.turn).await["attempts"], json!(2));
            let seen = testimony.seen();
            assert_eq!(
                self.tenant.watch(&testimony.turn, "").await,
                seen,
                "a replay differs from what was seen live"
            );
            if seen.all("tool.call").is_empty() {
                assert_counted(&seen);
            }
        }
        longest
    }
}

/// Checks that the visible answer counts from 1 to 60 and has each number once.
fn assert_counted(seen: &Seen) {
    let numbers: Vec<String> = (1..=60).map(|number| number.to_string()).collect();
    let text = seen.text();
    let said: Vec<&str> =
        text.split(|character: char| !character.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
    assert_eq!(said, numbers);
}

#[tokio::test]
async fn a_killed_replica_is_replaced_within_fifteen_seconds() {
    let mut cluster = Cluster::builder().production_times().replicas(Service::Chat, 2).start().await;
    let tenant = cluster.tenant("survivor").await;
    let (talking, working) = (tenant.session().await, tenant.session().await);
    // The sandbox exists before the fault. While "chat-2" is down, only "chat" can claim the turns.
    tenant.say(&working, "run touch effects").await;
    cluster.process("chat-2").kill().await;
    let mut scene = Scene { cluster, tenant, session: working.clone(), clients: JoinSet::new() };
    scene.run(&talking, INPUT).await;
    scene.run(&working, "run echo once >> effects; sleep 4 then run echo twice >> effects").await;
    scene.cluster.process("chat-2").run();
    scene.cluster.plane.until_ready(TIMEOUT).await.unwrap();
    // The tool runs when the worker dies, and the next worker finds its result. If the tool began only after
    // the takeover, its own 4 s would count as silence.
    let runs = async || {
        let count = "SELECT count(*) FROM sandbox.execs WHERE state = 'running'";
        let count: i64 =
            sqlx::query_scalar(count).fetch_one(&mut scene.cluster.administrator().await).await.unwrap();
        (count == 1).then_some(())
    };
    eventually("the tool runs", TIMEOUT, runs).await;

    scene.cluster.process("chat").kill().await;
    let silence = scene.ends_well(Instant::now()).await;
    assert!(silence < PROMISE, "{silence:?}\n{}", scene.cluster.logs());
    let seen = scene.tenant.say(&scene.session, "run cat effects").await;
    let output = seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned();
    assert_eq!((output.matches("once").count(), output.matches("twice").count()), (1, 1), "{output}");
    report("takeover at production times", format_args!("longest silence {silence:.1?}"));
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_frozen_replica_writes_nothing_when_it_wakes() {
    let mut scene = scene(Cluster::builder()).await;
    scene.cluster.process("chat").freeze();
    tokio::time::sleep(Duration::from_secs(4)).await;
    // "chat", which still has text in its buffers, resumes while "chat-2" runs the turn.
    scene.cluster.process("chat").thaw();
    scene.ends_well(Instant::now()).await;
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_replica_asked_to_stop_hands_its_turn_over() {
    let mut scene = scene(Cluster::builder()).await;
    let asked = Instant::now();
    let status = scene.cluster.process("chat").terminate().await;
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < DRAIN, "{:?}", asked.elapsed());
    let testimony = scene.clients.join_next().await.unwrap().unwrap();
    scene.cluster.verify(&scene.tenant, &testimony).await;
    scene.cluster.stop().await;
}

#[tokio::test]
async fn a_command_that_outlasts_a_stop_is_not_repeated() {
    let mut cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("patient").await;
    let session = tenant.session().await;
    let turn = tenant.begin(&session, "run echo once >> effects; sleep 16 then run cat effects").await;
    let mut clients = JoinSet::new();
    watch(&mut clients, &tenant, &turn);
    let sent = async || {
        let running = "SELECT count(*) FROM sandbox.execs WHERE state = 'running'";
        let running: i64 =
            sqlx::query_scalar(running).fetch_one(&mut cluster.administrator().await).await.unwrap();
        (running == 1).then_some(())
    };
    eventually("a command that runs", TIMEOUT, sent).await;

    let process = cluster.process("sandbox");
    let asked = Instant::now();
    let status = process.terminate().await;
    assert!(status.success(), "{status}\n{}", cluster.logs());
    assert!(asked.elapsed() < DRAIN, "{:?}", asked.elapsed());
    cluster.process("sandbox").run();
    let testimony = clients.join_next().await.unwrap().unwrap();
    cluster.verify(&tenant, &testimony).await;
    let seen = testimony.seen();
    let results = seen.all("tool.result");
    let content = |at: usize| results[at]["content"].as_str().unwrap();
    assert!(content(0).contains("exit code: 0"), "{}", content(0));
    assert_eq!(content(1).matches("once").count(), 1, "{}", content(1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_stopped_plane_ends_in_time_and_successfully() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("last").await;
    let session = tenant.session().await;
    let turn = tenant.begin(&session, INPUT).await;
    let mut left_behind = JoinSet::new();
    watch(&mut left_behind, &tenant, &turn);
    // `stop` also checks the exit code of each process and the time that it took to stop.
    cluster.stop().await;
}

#[tokio::test]
async fn replicas_stopped_under_load_end_in_time_and_lose_nothing() {
    let mut cluster =
        Cluster::builder().replicas(Service::Chat, 2).replicas(Service::Sandbox, 2).start().await;
    let tenant = cluster.tenant("many").await;
    let names = ["purge", "chat", "gateway", "sandbox", "registry", "chat-2", "sandbox-2"];
    let mut talks = Vec::new();
    for _ in names {
        talks.push(tenant.session().await);
    }
    let forgotten = tenant.session().await;
    tenant.say(&forgotten, "run touch effects").await;
    let mut clients = JoinSet::new();
    let mut tools = Vec::new();
    for number in 0..6 {
        let (tenant, session) = (tenant.clone(), tenant.session().await);
        let input = if number < 4 {
            INPUT
        } else {
            tools.push(session.clone());
            "run echo once >> effects; sleep 4 then run cat effects"
        };
        let turn = tenant.begin(&session, input).await;
        clients.spawn(async move { tenant.witness(&turn, TIMEOUT).await });
    }
    let id = purge(&tenant, &forgotten).await;
    let mut begun = Vec::new();
    for (name, session) in names.into_iter().zip(&talks) {
        // The first turns may have ended before the last processes are stopped, so a new turn begins before
        // each stop.
        let turn = tenant.begin_surely(session, INPUT, name, TIMEOUT).await;
        watch(&mut clients, &tenant, &turn);
        begun.push((turn, Instant::now()));
        let process = cluster.process(name);
        let asked = Instant::now();
        let status = process.terminate().await;
        assert!(status.success(), "{name}: {status}\n{}", cluster.logs());
        assert!(asked.elapsed() < DRAIN, "{name} took {:?}", asked.elapsed());
        cluster.process(name).run();
        cluster.plane.until_ready(TIMEOUT).await.unwrap();
    }
    let testimonies = clients.join_all().await;
    for testimony in &testimonies {
        cluster.verify(&tenant, testimony).await;
    }
    for (turn, asked) in &begun {
        let testimony = testimonies.iter().find(|testimony| testimony.turn == *turn).unwrap();
        assert!(
            testimony.silence_after(*asked).is_some(),
            "turn {turn} was over before a replica was asked to stop"
        );
    }
    committed(&tenant, &id).await;
    for session in &tools {
        let seen = tenant.say(session, "run cat effects").await;
        let output = seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned();
        assert_eq!(output.matches("once").count(), 1, "{output}");
    }
    cluster.stop().await;
}
