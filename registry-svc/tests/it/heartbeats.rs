//! Tests which agents stay online and which go offline.

use std::time::{Duration, Instant};

use registry_svc::Config;
use steward_proto::registry::v1::{
    Agent, AgentStatus, Beat, BeatAnswer, GetAgentRequest, HeartbeatRequest, PauseAgentRequest,
    RegisterAgentRequest, RemoveAgentRequest, ResumeAgentRequest, RuntimeState, StreamHeartbeatsRequest,
    agent_service_client::AgentServiceClient,
};
use svc_core::testing::FaultProxy;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    accounts::refusal,
    agents::{Agents, create, status_of},
    plane::Plane,
};

const URL: &str = "http://127.0.0.1:9/a2a";

/// Shortens all periods: the silence timeout is 0.74 s, and a probation takes 0.52 s.
fn fast(config: &mut Config) {
    let heartbeat = &mut config.own.heartbeat;
    heartbeat.shortest_interval = Duration::from_millis(200);
    heartbeat.longest_interval = Duration::from_millis(200);
    heartbeat.missed_beats = 2;
    heartbeat.grace = Duration::from_millis(300);
    heartbeat.flush_period = Duration::from_millis(150);
    heartbeat.replica_period = Duration::from_millis(100);
    heartbeat.sweep_period = Duration::from_millis(100);
    heartbeat.adopt_period = Duration::from_millis(300);
    heartbeat.sweep_lease = Duration::from_secs(2);
    heartbeat.recheck_period = Duration::from_millis(200);
}

fn well() -> HeartbeatRequest {
    HeartbeatRequest { beat: Some(Beat::default()) }
}

fn wedged() -> HeartbeatRequest {
    let beat = Beat { runtime_state: RuntimeState::Wedged.into(), ..Beat::default() };
    HeartbeatRequest { beat: Some(beat) }
}

async fn beat(agent: &mut Agents, request: HeartbeatRequest) -> BeatAnswer {
    agent.heartbeat(request).await.unwrap().into_inner().answer.unwrap()
}

/// Waits until an agent has the status `want`; returns the time until then.
async fn until(tenant: &mut Agents, agent: &Agent, want: AgentStatus) -> Duration {
    let start = Instant::now();
    loop {
        let status = status_of(tenant, agent).await;
        if status == want {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{status:?} instead of {want:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Beats through `agent` for `time`.
async fn keep_beating(agent: &mut Agents, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        beat(agent, well()).await;
        sleep(Duration::from_millis(100)).await;
    }
}

struct Tenant {
    plane: Plane,
    tenant: Agents,
    agent: Agent,
    token: String,
    process: Agents,
}

async fn tenant(change: impl FnOnce(&mut Config)) -> Tenant {
    let plane = Plane::with(|config| {
        fast(config);
        change(config);
    })
    .await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, token) = plane.registered(&mut tenant, URL).await;
    let process = plane.agents(&token).await;
    Tenant { plane, tenant, agent, token, process }
}

#[tokio::test]
async fn a_silent_agent_goes_offline_until_its_next_beat() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    keep_beating(&mut process, Duration::from_millis(1500)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
    let silence = until(&mut tenant, &agent, AgentStatus::Offline).await;
    assert!(silence >= Duration::from_millis(600), "offline after {silence:?}");

    let answer = beat(&mut process, well()).await;
    assert_eq!(answer.status(), AgentStatus::Online);
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
    keep_beating(&mut process, Duration::from_millis(1500)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn an_agent_that_registers_and_never_beats_goes_offline() {
    let Tenant { plane: _plane, mut tenant, agent, .. } = tenant(|_| {}).await;
    until(&mut tenant, &agent, AgentStatus::Offline).await;
}

#[tokio::test]
async fn an_agent_degrades_by_its_report_or_by_its_error_rate() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    let failing = |error_rate, judges_itself| HeartbeatRequest {
        beat: Some(Beat { error_rate, judges_itself, ..Beat::default() }),
    };
    for (request, want) in [
        (failing(0.49, None), AgentStatus::Online),
        (failing(0.5, None), AgentStatus::Degraded),
        (failing(0.2, None), AgentStatus::Degraded),
        (failing(0.05, None), AgentStatus::Online),
        (wedged(), AgentStatus::Degraded),
        (well(), AgentStatus::Online),
        (failing(1.0, Some(true)), AgentStatus::Online),
        (failing(1.0, None), AgentStatus::Online),
        (wedged(), AgentStatus::Degraded),
        (failing(1.0, Some(false)), AgentStatus::Degraded),
        (well(), AgentStatus::Online),
    ] {
        let said = request.clone();
        assert_eq!(beat(&mut process, request).await.status(), want, "{said:?}");
        assert_eq!(status_of(&mut tenant, &agent).await, want, "{said:?}");
    }
}

#[tokio::test]
async fn vitals_of_beats_reach_the_record_after_a_flush() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    beat(&mut process, well()).await;
    let said = Beat { active_tasks: 3, current_task: "sums".to_owned(), error_rate: 0.2, ..Beat::default() };
    beat(&mut process, HeartbeatRequest { beat: Some(said) }).await;
    sleep(Duration::from_millis(500)).await;
    let request = GetAgentRequest { agent_id: agent.agent_id.clone() };
    let seen = tenant.get_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((seen.active_tasks, seen.current_task.as_str(), seen.error_rate), (3, "sums", 0.2));
    assert!(seen.last_heartbeat_at.unwrap().seconds >= agent.last_heartbeat_at.unwrap().seconds);
    assert_eq!(seen.status_changed_at, agent.status_changed_at);
}

#[tokio::test]
async fn beats_report_a_pause_and_revive_the_agent_after_it() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    beat(&mut process, well()).await;
    let id = || agent.agent_id.clone();
    tenant.pause_agent(PauseAgentRequest { agent_id: id() }).await.unwrap();
    for request in [well(), wedged(), well()] {
        assert_eq!(beat(&mut process, request).await.status(), AgentStatus::Paused);
    }
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Paused);
    tenant.resume_agent(ResumeAgentRequest { agent_id: id() }).await.unwrap();
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::AwaitingAgent);
    assert_eq!(beat(&mut process, well()).await.status(), AgentStatus::Online);
    tenant.remove_agent(RemoveAgentRequest { agent_id: id() }).await.unwrap();
    let late = process.heartbeat(well()).await.unwrap_err();
    assert!(matches!(late.code(), Code::NotFound | Code::Unauthenticated), "{late:?}");
}

#[tokio::test]
async fn an_emptied_redis_is_seeded_and_takes_no_agent_offline() {
    let Tenant { plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    let (silent, _) = plane.registered(&mut tenant, URL).await;
    keep_beating(&mut process, Duration::from_millis(300)).await;
    plane.forget_redis().await;
    let lost = Instant::now();
    let forgotten = async {
        // This agent does not beat again, so only the sweep can notice its silence.
        until(&mut tenant.clone(), &silent, AgentStatus::Offline).await;
        lost.elapsed()
    };
    let (noticed, ()) = tokio::join!(forgotten, keep_beating(&mut process, Duration::from_secs(2)));
    assert!(noticed >= Duration::from_millis(500), "all agents get a probation: {noticed:?}");
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn deadlines_of_another_redis_do_not_count() {
    let Tenant { plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    keep_beating(&mut process, Duration::from_millis(300)).await;
    // Sets up a Redis that was restored from another server's snapshot on disk: our keys, old deadlines, and
    // the other server's generation key.
    plane.redis_command(&["SET", "hbs:generation", "0123:0123456789abcdef0123456789abcdef01234567"]).await;
    plane.redis_command(&["ZADD", "hb:deadlines", "1", &agent.agent_id]).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
    keep_beating(&mut process, Duration::from_secs(1)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn without_redis_beats_work_and_no_agent_goes_offline() {
    let plane = Plane::with(fast).await;
    let proxy = FaultProxy::start(plane.redis.address()).await;
    let redis = plane.redis.config_through(proxy.address());
    drop(plane);

    let Tenant { plane, mut tenant, agent, mut process, .. } =
        tenant(|config| config.base.redis = redis).await;
    let (silent, _) = plane.registered(&mut tenant, URL).await;
    beat(&mut process, well()).await;
    proxy.refuse();
    sleep(Duration::from_millis(200)).await;
    for (request, want) in
        [(well(), AgentStatus::Online), (wedged(), AgentStatus::Degraded), (well(), AgentStatus::Online)]
    {
        let start = Instant::now();
        assert_eq!(beat(&mut process, request).await.status(), want);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(status_of(&mut tenant, &agent).await, want);
    }
    keep_beating(&mut process, Duration::from_secs(2)).await;
    assert_eq!(status_of(&mut tenant, &silent).await, AgentStatus::Online, "without Redis no sweep runs");

    proxy.pass();
    let back = async {
        let mut tenant = tenant.clone();
        until(&mut tenant, &silent, AgentStatus::Offline).await
    };
    let (noticed, ()) = tokio::join!(back, keep_beating(&mut process, Duration::from_secs(4)));
    assert!(noticed >= Duration::from_millis(400), "all agents get a probation after a pause: {noticed:?}");
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn a_replica_without_redis_keeps_its_agents_online() {
    let Tenant { mut plane, mut tenant, agent, token, .. } = tenant(|_| {}).await;
    let proxy = FaultProxy::start(plane.redis.address()).await;
    let redis = plane.redis.config_through(proxy.address());
    let other = plane
        .add_replica(|config| {
            fast(config);
            config.base.redis = redis;
        })
        .await;
    let mut process = AgentServiceClient::new(plane.bearer_at(other, &token).await);
    beat(&mut process, well()).await;
    proxy.refuse();
    // The first replica sweeps meanwhile, and never gets a beat of this agent.
    keep_beating(&mut process, Duration::from_secs(3)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
    until(&mut tenant, &agent, AgentStatus::Offline).await;
}

#[tokio::test]
async fn the_sweep_grants_the_interval_that_replies_ask_for() {
    // The replies ask the two agents for a beat every 2 s instead of 0.2 s, and the silence timeout is 4.7 s.
    let slow = |config: &mut Config| {
        config.own.heartbeat.wanted_per_second = 1;
        config.own.heartbeat.longest_interval = Duration::from_secs(2);
    };
    let Tenant { mut plane, mut tenant, agent, token, .. } = tenant(slow).await;
    let proxy = FaultProxy::start(plane.redis.address()).await;
    let redis = plane.redis.config_through(proxy.address());
    let other = plane
        .add_replica(|config| {
            fast(config);
            slow(config);
            config.base.redis = redis;
        })
        .await;
    let (_, neighbour) = plane.registered(&mut tenant, URL).await;
    let mut neighbour = plane.agents(&neighbour).await;
    let mut process = AgentServiceClient::new(plane.bearer_at(other, &token).await);
    beat(&mut process, well()).await;
    proxy.refuse();
    // The replica without Redis gets this agent's beats and flushes them to Postgres. The agent's deadline in
    // Redis passes during the loop, and the first replica sweeps.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(9) {
        assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online, "after {:?}", start.elapsed());
        beat(&mut process, well()).await;
        beat(&mut neighbour, well()).await;
        sleep(Duration::from_millis(1500)).await;
    }
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn a_stale_snapshot_does_not_revive_a_paused_agent() {
    let Tenant { mut plane, mut tenant, agent, token, .. } = tenant(|_| {}).await;
    let proxy = FaultProxy::start(plane.redis.address()).await;
    let redis = plane.redis.config_through(proxy.address());
    let other = plane
        .add_replica(|config| {
            fast(config);
            config.base.redis = redis;
            // No flush runs during this test, so none corrects the cached snapshot.
            config.own.heartbeat.flush_period = Duration::from_secs(3600);
        })
        .await;
    let mut process = AgentServiceClient::new(plane.bearer_at(other, &token).await);
    beat(&mut process, well()).await;
    proxy.refuse();
    tenant.pause_agent(PauseAgentRequest { agent_id: agent.agent_id.clone() }).await.unwrap();
    // The replica has "online" in its cache and gets "wedged": the record is in another incarnation and stays
    // as it is.
    let answer = beat(&mut process, wedged()).await;
    assert_eq!(answer.status(), AgentStatus::Paused);
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Paused);
    assert_eq!(beat(&mut process, well()).await.status(), AgentStatus::Paused, "the cache was updated");
}

#[tokio::test]
async fn a_mass_silence_gives_all_agents_one_grace_period() {
    let change = |config: &mut Config| {
        config.own.heartbeat.max_silent = 2;
        // The grace is longer than the registrations take.
        config.own.heartbeat.grace = Duration::from_secs(2);
    };
    let Tenant { plane, mut tenant, agent, process, .. } = tenant(change).await;
    let (mut all, mut processes) = (vec![agent], vec![process]);
    for _ in 0..5 {
        let (agent, token) = plane.registered(&mut tenant, URL).await;
        all.push(agent);
        processes.push(plane.agents(&token).await);
    }
    // All beat at once, and so are silent at once.
    futures::future::join_all(processes.iter_mut().map(|process| beat(process, well()))).await;
    let start = Instant::now();
    for agent in &all {
        until(&mut tenant, agent, AgentStatus::Offline).await;
    }
    // The agents had the silence timeout of 2.4 s, and then a probation of 2.2 s.
    assert!(start.elapsed() >= Duration::from_millis(4400), "{:?}", start.elapsed());
    let metrics = plane.metrics().render().unwrap();
    let braked = metrics.lines().find(|line| line.starts_with("registry_sweeps_braked")).unwrap();
    assert!(braked.ends_with(" 1"), "{braked}");
}

#[tokio::test]
async fn several_replicas_mark_a_silent_agent_once() {
    let Tenant { mut plane, mut tenant, agent, .. } = tenant(|_| {}).await;
    for _ in 0..2 {
        plane.add_replica(fast).await;
    }
    until(&mut tenant, &agent, AgentStatus::Offline).await;
    sleep(Duration::from_millis(500)).await;
    let (generation, incarnation) = plane.generation_of(&agent.agent_id).await;
    // The agent was created, registered and marked silent: three changes.
    assert_eq!((generation, incarnation), (3, 3));
}

#[tokio::test]
async fn a_flush_corrects_a_stale_snapshot() {
    let Tenant { plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    beat(&mut process, well()).await;
    // A sweep that dies after its write to Postgres and before its write to Redis leaves this state.
    plane.mark_offline_in_postgres(&agent.agent_id).await;
    keep_beating(&mut process, Duration::from_millis(600)).await;
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
    let (_, incarnation) = plane.generation_of(&agent.agent_id).await;
    assert_eq!(incarnation, 3);
}

fn stream_of(beats: Vec<Beat>) -> impl tokio_stream::Stream<Item = StreamHeartbeatsRequest> {
    tokio_stream::iter(beats.into_iter().map(|beat| StreamHeartbeatsRequest { beat: Some(beat) }))
}

#[tokio::test]
async fn a_stream_of_beats_is_answered_in_order() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    let beats: Vec<_> = (0..1000).map(|n| Beat { active_tasks: n, ..Beat::default() }).collect();
    let mut answers = process.stream_heartbeats(stream_of(beats)).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap().answer.unwrap();
        assert_eq!(answer.status(), AgentStatus::Online);
        let next = answer.next_beat_in.unwrap();
        assert!((180_000_000..=220_000_000).contains(&next.nanos) && next.seconds == 0, "{next:?}");
        count += 1;
    }
    assert_eq!(count, 1000);
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn a_stream_ends_when_its_credential_is_revoked() {
    let Tenant { plane: _plane, mut tenant, agent, mut process, .. } = tenant(|_| {}).await;
    let (send, beats) = tokio::sync::mpsc::channel(1);
    send.send(StreamHeartbeatsRequest { beat: Some(Beat::default()) }).await.unwrap();
    let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
    let mut answers = process.stream_heartbeats(beats).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    tenant.remove_agent(RemoveAgentRequest { agent_id: agent.agent_id.clone() }).await.unwrap();
    // No beat is sent: the stream checks its credential every 0.2 s, and the token cache keeps a token for at
    // most 5 s.
    let end = tokio::time::timeout(Duration::from_secs(6), answers.next()).await.unwrap().unwrap();
    assert_eq!(refusal(end).0, Code::Unauthenticated);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_when_its_replica_stops() {
    let Tenant { mut plane, tenant: _tenant, mut process, .. } = tenant(|_| {}).await;
    let (send, beats) = tokio::sync::mpsc::channel(1);
    send.send(StreamHeartbeatsRequest { beat: Some(Beat::default()) }).await.unwrap();
    let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
    let mut answers = process.stream_heartbeats(beats).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    plane.stop_replica(0).await;
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn neither_an_enrolment_nor_a_tenant_may_beat() {
    let Tenant { plane, mut tenant, .. } = tenant(|_| {}).await;
    let (_, enrolment) = create(&mut tenant, "other").await;
    let mut newcomer = plane.agents(&enrolment.secret).await;
    assert_eq!(refusal(newcomer.heartbeat(well()).await).0, Code::PermissionDenied);
    assert_eq!(refusal(tenant.heartbeat(well()).await).0, Code::PermissionDenied);
    let request = RegisterAgentRequest { url: URL.to_owned(), ..Default::default() };
    let token = newcomer.register_agent(request).await.unwrap().into_inner();
    assert!(token.next_beat_in.is_some());
    let empty = plane.agents(&token.secret).await.heartbeat(HeartbeatRequest { beat: None }).await;
    assert_eq!(refusal(empty).0, Code::InvalidArgument);
}
