//! Tests outages: Postgres, Redis or Docker is down for ten seconds during turns and beats. Callers get 503
//! with Retry-After, or no error. No accepted work is lost or done twice, no agent is marked silent, and no
//! container is left over.

use std::time::{Duration, Instant};

use serde_json::Value;
use steward::plane::Service;
use suite_tests::{
    actors::Tenant,
    cluster::{Builder, Cluster},
    eventually::eventually,
    load::{Agent, Load, Outcome},
    rounds::{report, rounds},
};

const AWAY: Duration = Duration::from_secs(10);
/// Maximum time from the end of an outage until the plane answers every call.
const RECOVERY: Duration = Duration::from_secs(5);
/// Agents beat every second and count as silent after about five seconds, half of [`AWAY`].
const BEATS: &str = "
heartbeat.shortest_interval = '1s'
heartbeat.longest_interval = '1s'
heartbeat.grace = '2s'
heartbeat.flush_period = '1s'
heartbeat.replica_period = '500ms'
heartbeat.sweep_period = '1s'
heartbeat.sweep_lease = '3s'
heartbeat.adopt_period = '5s'
";

struct Scene {
    cluster: Cluster,
    tenant: Tenant,
    /// Two sessions with turns that only produce text, then one with a sandbox.
    sessions: Vec<String>,
    agents: Vec<Agent>,
    /// For each agent, the time at which its status last changed.
    since: Vec<Value>,
    /// Expected lines of the file in the sandbox.
    effects: Vec<String>,
    answers: usize,
    refusals: usize,
    turns: usize,
}

fn plane() -> Builder {
    Cluster::builder().replicas(Service::Chat, 2).settings(Service::Registry, BEATS)
}

impl Scene {
    async fn open(builder: Builder) -> Self {
        let cluster = builder.start().await;
        let tenant = cluster.tenant("steady").await;
        let (mut sessions, mut agents) = (Vec::new(), Vec::new());
        for number in 0..3 {
            sessions.push(tenant.session().await);
            agents.push(tenant.agent(&format!("agent {number}")).await);
        }
        tenant.say(&sessions[2], "run touch effects").await;
        let (answers, refusals, turns) = (0, 0, 0);
        let (since, effects) = (Vec::new(), Vec::new());
        Self { cluster, tenant, sessions, agents, since, effects, answers, refusals, turns }
    }

    /// Starts the load: beats, reads and short turns. Once a beat of every agent has arrived, starts a turn
    /// of 14 s that only produces text and a turn with a command of 6 s, so that both are in progress when
    /// the outage begins.
    async fn load(&mut self) -> Load {
        let mut before = Vec::new();
        for agent in &self.agents {
            before.push(self.tenant.standing(agent).await["lastHeartbeatAt"].clone());
        }
        let mut load = Load::begin(&self.tenant, &self.sessions[..2], &self.agents);
        self.since.clear();
        for (agent, before) in self.agents.iter().zip(&before) {
            let heard = async || {
                let standing = self.tenant.standing(agent).await;
                let heard =
                    standing["status"] == "AGENT_STATUS_ONLINE" && standing["lastHeartbeatAt"] != *before;
                heard.then(|| standing["statusChangedAt"].clone())
            };
            self.since.push(eventually("a beat is heard", Duration::from_secs(10), heard).await.0);
        }
        load.turn(&self.tenant, &self.sessions[0], "count to 70 every 200ms");
        let line = format!("line {}", self.effects.len());
        let input = format!("run echo {line} >> effects; sleep 6 then run cat effects");
        load.turn(&self.tenant, &self.sessions[2], &input);
        self.effects.push(line);
        load
    }

    /// Checks everything that must hold after any outage.
    async fn settle(&mut self, outcome: &Outcome) {
        for testimony in &outcome.testimonies {
            self.cluster.verify(&self.tenant, testimony).await;
        }
        for (agent, since) in self.agents.iter().zip(&self.since) {
            let standing = self.tenant.standing(agent).await;
            // The agent is online now, and its status has not changed since the load began.
            let always = standing["status"] == "AGENT_STATUS_ONLINE" && standing["statusChangedAt"] == *since;
            assert!(always, "{standing}, before since {since}\n{}", self.cluster.logs());
        }
        let seen = self.tenant.say(&self.sessions[2], "run cat effects").await;
        let output = seen.all("tool.result")[0]["content"].as_str().unwrap().to_owned();
        let lines: Vec<&str> = output.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(lines, self.effects, "{output}");
        self.answers += outcome.answers.len();
        self.refusals += outcome.answers.iter().filter(|answer| answer.status == 503).count();
        self.turns += outcome.testimonies.len();
    }

    async fn close(self, suite: &str, rounds: usize) {
        let Self { cluster, answers, refusals, turns, .. } = self;
        cluster.stop().await;
        report(
            suite,
            format_args!(
                "{rounds} of {AWAY:?}; {answers} answers, {refusals} of them 503 with Retry-After; \
                 {turns} turns complete"
            ),
        );
    }
}

#[tokio::test]
async fn postgres_away_is_503_with_retry_after_and_loses_nothing() {
    let mut scene = Scene::open(plane().wired()).await;
    let rounds = rounds("outages", 1);
    for _ in 0..rounds {
        let load = scene.load().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.cluster.wires().postgres.refuse();
        tokio::time::sleep(AWAY).await;
        scene.cluster.wires().postgres.pass();
        let back = Instant::now();
        tokio::time::sleep(RECOVERY + Duration::from_secs(2)).await;
        let outcome = load.end().await;
        outcome.assert_civil(true);
        outcome.assert_well_after(back + RECOVERY);
        assert!(outcome.answers.iter().any(|answer| answer.status == 503), "no call was refused");
        scene.settle(&outcome).await;
        let containers = scene.cluster.containers().await;
        assert_eq!(containers.len(), 1, "{containers:?}");
    }
    scene.close("outages of Postgres", rounds).await;
}

#[tokio::test]
async fn redis_away_and_flushed_disturbs_no_client() {
    let mut scene = Scene::open(plane()).await;
    let rounds = rounds("outages", 1);
    for _ in 0..rounds {
        let load = scene.load().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.cluster.lose_redis().await;
        tokio::time::sleep(AWAY).await;
        scene.cluster.regain_redis().await;
        // Waits long enough that an agent would be marked silent if its beats had been lost with Redis.
        tokio::time::sleep(RECOVERY * 2).await;
        let outcome = load.end().await;
        outcome.assert_civil(false);
        scene.settle(&outcome).await;
        assert_eq!(scene.cluster.containers().await.len(), 1);
    }
    scene.close("outages of Redis", rounds).await;
}

#[tokio::test]
async fn docker_away_or_hung_delays_new_sandboxes_only() {
    let mut scene = Scene::open(plane().wired()).await;
    let rounds = rounds("outages", 1);
    let mut sandboxes = 1;
    for _ in 0..rounds {
        for hung in [false, true] {
            let mut load = scene.load().await;
            let docker = &scene.cluster.wires().docker;
            if hung {
                docker.stall();
            } else {
                docker.refuse();
            }
            // A session without a sandbox must wait for one.
            let newcomer = scene.tenant.session().await;
            load.turn(&scene.tenant, &newcomer, "run echo mine >> effects; cat effects");
            sandboxes += 1;
            tokio::time::sleep(AWAY).await;
            docker.pass();
            let outcome = load.end().await;
            outcome.assert_civil(false);
            scene.settle(&outcome).await;
            let seen = scene.tenant.say(&newcomer, "run cat effects").await;
            let results = seen.all("tool.result");
            let once = results[0]["content"].as_str().unwrap().matches("mine").count();
            assert_eq!(once, 1, "{results:?}\n{}", scene.cluster.logs());
            let containers = scene.cluster.containers().await;
            let running = containers.iter().filter(|container| container.state == "running").count();
            assert_eq!((running, containers.len()), (sandboxes, sandboxes), "{containers:?}");
        }
    }
    scene.close("outages of Docker", rounds * 2).await;
}

#[tokio::test]
async fn a_docker_restart_ends_containers_and_loses_no_work() {
    let mut scene = Scene::open(plane().own_engine()).await;
    let rounds = rounds("outages", 1);
    for _ in 0..rounds {
        let load = scene.load().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.cluster.stop_engine().await;
        tokio::time::sleep(AWAY).await;
        scene.cluster.start_engine().await;
        let outcome = load.end().await;
        outcome.assert_civil(false);
        // The container ended in the middle of a command. The session continues in a new container on the
        // same workspace, and the command is not repeated.
        scene.settle(&outcome).await;
        let alone = async || {
            let containers = scene.cluster.containers().await;
            (containers.len() == 1 && containers[0].state == "running").then_some(())
        };
        eventually("one container runs and none is left over", Duration::from_secs(20), alone).await;
    }
    scene.close("restarts of Docker", rounds).await;
}
