//! The composition root: the only place that wires and spawns.

use std::{collections::BTreeSet, sync::Arc};

use svc_core::{
    custody::server::CustodianHandler,
    data::{
        lease::Singleton,
        pg::{self, MigrateError, Pool},
        redis::{self, Redis},
    },
    id,
    run::{
        clock::{SharedClock, SystemClock},
        lifecycle::Lifecycle,
        telemetry::Metrics,
    },
    wire::{
        assertion::{LoadError, Verifier},
        auth::{Authenticator, CachedTokens, ContractError, Methods},
        outbound::{self, Outbound},
        server::{self, Bound, Server},
    },
};

use tokio::sync::Notify;

use crate::{
    app::{
        accounts::Accounts,
        agents::{Agents, Limits},
        custodian::Custodian,
        heartbeat::{Flusher, Heartbeats, Memory, Seeder, Stamper, Stamping},
        register::Register,
        relay::{Relay, Waiting, deliver::Deliverer},
        sweep::Sweep,
        tokens::Tokens,
    },
    config::{Config, HeartbeatConfig},
    grpc::{
        accounts::AccountHandler, agents::AgentHandler, auth::AuthHandler, heartbeats::BeatDoor,
        relay::RelayHandler,
    },
    store::{MIGRATOR, beats::BeatStore},
    worker,
};

/// The service's name, as assertions and telemetry have it.
pub const NAME: &str = "registry-svc";

/// Why registry-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract cannot be enforced.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// The keys of the other processes could not be loaded.
    #[error("load the trusted keys")]
    Identity(#[from] LoadError),
    /// The database is not as it should be.
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// Agents cannot be called.
    #[error(transparent)]
    Outbound(#[from] outbound::BuildError),
    /// Redis cannot be used as configured.
    #[error("configuration of registry: redis.url is not usable")]
    Redis(#[source] redis::Error),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
}

/// Starts registry-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] says why there is none.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    // A taken port shows before anything is changed.
    let bound = Bound::bind(&config.server).await?;
    let clock = SystemClock::shared();
    let methods = Methods::from_contract()?;
    let verifier = Verifier::load(NAME, &config.identity, clock.clone())?;
    pg::migrate(&MIGRATOR, &config.pg).await?;
    let pool = Pool::connect(&config.pg).await?;

    let redis = Redis::lazy(&config.redis).map_err(StartError::Redis)?;
    let replica = id::new_id().simple().to_string();
    let beats = BeatStore::new(redis.clone(), replica.clone());
    let liveness = Liveness::new(&config.heartbeat, &pool, &clock, &beats);

    let tokens =
        Tokens::new(pool.clone(), clock.clone(), scopes_of(&methods), config.tokens.max_live_per_account);
    let accounts = Accounts::new(pool.clone(), clock.clone());
    let limits =
        Limits { max_per_account: config.agents.max_per_account, enrolment_ttl: config.agents.enrolment_ttl };
    let agents = Agents::new(pool.clone(), clock.clone(), liveness.memory.clone(), limits);
    let outbound = Outbound::new(&config.outbound)?;
    let rhythm = config.heartbeat.rhythm();
    let register =
        Register::new(pool.clone(), clock.clone(), outbound.clone(), liveness.memory.clone(), rhythm);
    let custodian = Custodian::new(pool.clone(), clock.clone(), beats.clone(), liveness.memory.clone());
    let hint = Arc::<Notify>::default();
    let limits = config.relay.delivery();
    let deliverer = Deliverer::new(pool.clone(), clock.clone(), outbound, limits, Waiting::default());
    let limits = config.relay.limits();
    let (wake, stop) = (hint.clone(), lifecycle.soft());
    let relay = Relay::new(pool.clone(), clock.clone(), limits, deliverer.clone(), wake, stop);
    let door = BeatDoor::new(liveness.heartbeats, config.heartbeat.recheck_period, lifecycle.soft());

    let resolver = CachedTokens::new(Arc::new(tokens.clone()), config.tokens.remembered);
    let authenticator = Authenticator::new(Arc::new(methods), verifier, Arc::new(resolver));

    worker::retention::start(pool.clone(), clock, &config.retention, &lifecycle);
    worker::relay::start(deliverer, pool.clone(), hint, replica, &config.relay, &lifecycle);
    worker::liveness::start(liveness.stamping, liveness.flusher, beats, &config.heartbeat, &lifecycle);
    let singleton = Singleton::new("registry.sweep", config.heartbeat.sweep_lease, &redis, &pool, &lifecycle);
    worker::liveness::start_sweep(liveness.sweep, singleton, &config.heartbeat, &lifecycle);
    Server::new(NAME, config.server, authenticator)
        .service(AccountHandler::new(accounts, tokens.clone()).into_server())
        .service(AuthHandler::new(tokens).into_server())
        .service(AgentHandler::new(agents, register, door).into_server())
        .service(CustodianHandler::new(NAME, custodian).into_server())
        .service(RelayHandler::new(relay, config.relay.max_request_bytes).into_server())
        .ready_when(pool)
        .start(bound, metrics, &lifecycle)?;
    Ok(())
}

/// Everything that knows who is alive.
struct Liveness {
    memory: Memory,
    heartbeats: Heartbeats,
    stamping: Stamping,
    flusher: Flusher,
    sweep: Sweep,
}

impl Liveness {
    fn new(config: &HeartbeatConfig, pool: &Pool, clock: &SharedClock, beats: &BeatStore) -> Self {
        let rhythm = config.rhythm();
        let memory = Memory::new(beats.clone(), config.remembered);
        let seeder = Seeder::new(pool.clone(), beats.clone(), rhythm.amnesty());
        let (stamper, stamping) = Stamper::new(beats.clone(), seeder.clone(), rhythm);
        let flusher = Flusher::new(pool.clone(), memory.clone());
        let parts = (memory.clone(), stamper, flusher.clone());
        let heartbeats = Heartbeats::new(pool.clone(), clock.clone(), rhythm, parts, config.settling);
        let parts = (beats.clone(), memory.clone(), seeder);
        let fresh = worker::liveness::replica_fresh(config);
        let sweep = Sweep::new(pool.clone(), clock.clone(), parts, rhythm, config.sweep_limits(), fresh);
        Self { memory, heartbeats, stamping, flusher, sweep }
    }
}

/// Every scope that some method asks for.
fn scopes_of(methods: &Methods) -> BTreeSet<String> {
    let scopes = methods.paths().filter_map(|path| methods.get(path)).map(|method| &method.auth.scope);
    scopes.filter(|scope| !scope.is_empty()).cloned().collect()
}
