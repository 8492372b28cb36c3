//! Builds all parts of registry-svc and starts its tasks; no other file does.

use std::sync::Arc;

use svc_core::{
    base::{Base, ServiceConfig, StartError, Starting},
    custody::server::CustodianHandler,
    data::lease::Singleton,
    run::{backoff::Backoff, lifecycle::Lifecycle, telemetry::Metrics},
    wire::outbound::Outbound,
};
use tokio::sync::{Notify, Semaphore};

use crate::{
    app::{
        accounts::Accounts,
        agents::Agents,
        custodian::Custodian,
        heartbeat::{Flusher, Heartbeats, RenewTask, Renewer, Seeder, SnapshotCache},
        register::Register,
        relay::{Relay, RelayLimits, Waiters, client::AgentClient, deliver::Deliverer},
        retention::Retention,
        sweep::Sweep,
        tokens::Tokens,
    },
    config::{Config, HeartbeatConfig, RelayConfig, Settings},
    domain::{
        beat::{BeatSchedule, SweepLimits},
        delivery::RetryPolicy,
    },
    grpc::{
        accounts::AccountHandler, agents::AgentHandler, auth::AuthHandler, heartbeats::BeatHandler,
        relay::RelayHandler,
    },
    metrics,
    store::{MIGRATOR, beats::BeatStore},
    worker,
};

/// Number of announcement periods for which a replica counts as connected after its last announcement.
const REPLICA_PERIODS: u32 = 3;

/// The service's name in assertions and telemetry.
pub const NAME: &str = Settings::NAME;

/// Starts registry-svc on `lifecycle`: takes its ports, migrates, starts its tasks and returns.
///
/// # Errors
/// [`StartError`] names the part that did not start.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    let (starting, settings) = Starting::new(config, lifecycle, metrics).await?;
    let outbound = Outbound::new(&settings.outbound).map_err(|error| StartError::part("outbound", error))?;
    let base = starting.open(&MIGRATOR).await?;
    let (pool, clock, lifecycle) = (base.pool.clone(), base.clock.clone(), base.lifecycle.clone());
    let replica = base.lease_holder();
    let beats = BeatStore::new(base.redis.clone(), replica.clone());
    let liveness = Liveness::new(&settings.heartbeat, &base, &beats);

    let tokens = Tokens::new(pool.clone(), clock.clone(), settings.tokens.max_live_per_account);
    let accounts = Accounts::new(pool.clone(), clock.clone());
    let agents = Agents::new(pool.clone(), clock.clone(), liveness.cache.clone(), settings.agents);
    let register = Register {
        pool: pool.clone(),
        clock: clock.clone(),
        outbound: outbound.clone(),
        cache: liveness.cache.clone(),
        schedule: schedule_of(&settings.heartbeat),
    };
    let custodian = Custodian::new(pool.clone(), clock.clone(), beats, liveness.cache);
    let beats = BeatHandler {
        heartbeats: liveness.heartbeats.clone(),
        recheck: settings.heartbeat.recheck_period,
        stop: lifecycle.soft(),
    };
    let (deliverer, relay, hint) = relay_of(&settings.relay, &base, outbound, replica);

    let retention = Retention {
        pool: pool.clone(),
        clock,
        batch: i64::from(settings.retention.batch.get()),
        messages: settings.retention.messages,
    };
    worker::start_retention(retention, settings.retention.period, &lifecycle);
    worker::relay::start(deliverer, hint, &settings.relay, &lifecycle);
    let (config, heartbeats, flusher) = (&settings.heartbeat, liveness.heartbeats, liveness.flusher);
    worker::liveness::start(liveness.renew, flusher, heartbeats, config, &lifecycle);
    let singleton = Singleton::new("registry.sweep", config.sweep_lease, &base.redis, &pool, &lifecycle);
    worker::liveness::start_sweep(liveness.sweep, singleton, config, &lifecycle);
    base.serve(tokens.clone(), settings.tokens.remembered, |server| {
        server
            .service(AccountHandler { accounts, tokens: tokens.clone() }.into_server())
            .service(AuthHandler { tokens }.into_server())
            .service(AgentHandler { agents, register, beats }.into_server())
            .service(CustodianHandler::new(NAME, custodian).into_server())
            .service(RelayHandler { relay, max_request: settings.relay.max_request_bytes }.into_server())
    })
}

/// Builds the relay, the deliverer of its messages, and the hint with which the relay wakes the dispatcher.
fn relay_of(
    config: &RelayConfig,
    base: &Base,
    outbound: Outbound,
    replica: String,
) -> (Deliverer, Relay, Arc<Notify>) {
    let (hint, waiters) = (Arc::<Notify>::default(), Waiters::default());
    let client = AgentClient { outbound, message_timeout: config.timeout, task_timeout: config.ask_timeout };
    let deliverer = Deliverer {
        pool: base.pool.clone(),
        clock: base.clock.clone(),
        client: client.clone(),
        waiters: waiters.clone(),
        replica,
        lease: config.lease,
        settle_timeout: config.settle_timeout,
        retries: RetryPolicy {
            max_arrivals: config.max_arrivals,
            backoff: Backoff::new(config.first_retry, config.longest_retry),
        },
        metrics: metrics::Deliveries::default(),
    };
    let relay = Relay {
        pool: base.pool.clone(),
        clock: base.clock.clone(),
        limits: RelayLimits {
            max_request: config.max_request_bytes,
            max_waiting: config.max_waiting,
            wait: config.wait,
            ttl: config.ttl,
        },
        client,
        waiters,
        hint: hint.clone(),
        stop: base.lifecycle.soft(),
    };
    (deliverer, relay, hint)
}

/// The parts that know which agents are alive.
struct Liveness {
    cache: SnapshotCache,
    heartbeats: Heartbeats,
    renew: RenewTask,
    flusher: Flusher,
    sweep: Sweep,
}

impl Liveness {
    fn new(config: &HeartbeatConfig, base: &Base, beats: &BeatStore) -> Self {
        let (pool, clock) = (&base.pool, &base.clock);
        let schedule = schedule_of(config);
        let cache = SnapshotCache::new(beats.clone(), config.remembered);
        let seeder = Seeder::new(pool.clone(), beats.clone(), schedule.probation());
        let (renewer, renew) = Renewer::new(beats.clone(), seeder.clone(), schedule);
        let flusher = Flusher::new(pool.clone(), cache.clone());
        let heartbeats = Heartbeats {
            pool: pool.clone(),
            clock: clock.clone(),
            schedule,
            beats: beats.clone(),
            cache: cache.clone(),
            renewer,
            flusher: flusher.clone(),
            record_writes: Arc::new(Semaphore::new(config.max_record_writes)),
            metrics: metrics::Beats::default(),
        };
        let sweep = Sweep {
            pool: pool.clone(),
            clock: clock.clone(),
            beats: beats.clone(),
            cache: cache.clone(),
            seeder,
            schedule,
            limits: SweepLimits {
                period: config.sweep_period,
                probation: schedule.probation(),
                max_silent: config.max_silent,
                max_silent_share: config.max_silent_share,
            },
            replica_fresh: config.replica_period * REPLICA_PERIODS,
            metrics: metrics::Sweeps::default(),
        };
        Self { cache, heartbeats, renew, flusher, sweep }
    }
}

fn schedule_of(config: &HeartbeatConfig) -> BeatSchedule {
    BeatSchedule {
        min_interval: config.shortest_interval,
        max_interval: config.longest_interval,
        target_per_second: config.wanted_per_second,
        missed_beats: config.missed_beats,
        grace: config.grace,
    }
}
