//! The composition root: the only place that wires and spawns.

use std::{collections::BTreeSet, sync::Arc};

use svc_core::{
    data::{
        pg::{self, MigrateError, Pool},
        redis::{self, Redis},
        wake::Wake,
    },
    id::new_id,
    run::{
        clock::{SharedClock, SystemClock},
        lifecycle::Lifecycle,
        telemetry::Metrics,
    },
    wire::{
        assertion::{LoadError, Signer, Verifier},
        auth::{Authenticator, CachedTokens, ContractError, Methods, remote::RegistryTokens},
        client::{self, Peer, PeerConfig},
        server::{self, Bound, Server},
    },
};

use crate::{
    app::{dead_letters::DeadLetters, drive::Driver, holds::Holds, jobs::Jobs, ledger::Ledger},
    client::Sessions,
    config::Config,
    custodian::{Remote, Roster},
    domain::{custodian::Custodian, subject::Trigger},
    grpc::{admin::PurgeAdminHandler, purge::PurgeHandler},
    metrics,
    store::MIGRATOR,
    worker::{self, drive::Worker},
};

/// The service's name, as assertions and telemetry have it.
pub const NAME: &str = "purge-svc";

/// Why purge-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract cannot be enforced.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// Keys could not be loaded.
    #[error("load the keys")]
    Identity(#[from] LoadError),
    /// Another service cannot be called.
    #[error("call the other services")]
    Peer(#[from] client::Error),
    /// The database is not as it should be.
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
    /// Redis cannot be used.
    #[error("use Redis")]
    Redis(#[from] redis::Error),
}

/// Starts purge-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] says why there is none.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    // A taken port shows before anything is changed.
    let bound = Bound::bind(&config.server).await?;
    let clock = SystemClock::shared();
    let peers = Peers::load(&config, &clock)?;
    let tokens =
        CachedTokens::new(Arc::new(RegistryTokens::new(peers.registry.clone())), config.tokens.remembered);
    let verifier = Verifier::load(NAME, &config.identity, clock.clone())?;
    let authenticator = Authenticator::new(Arc::new(Methods::from_contract()?), verifier, Arc::new(tokens));
    pg::migrate(&MIGRATOR, &config.pg).await?;
    let pool = Pool::connect(&config.pg).await?;
    let wake = Wake::start(&Redis::lazy(&config.redis)?, &lifecycle);

    let enabled: Arc<[Trigger]> = config.triggers.clone().into();
    if enabled.is_empty() {
        tracing::warn!("no trigger is switched on: erasures are accepted and wait");
    }
    start_workers(&config, &lifecycle, &pool, &wake, &clock, &enabled, peers.roster(&config));
    let sessions = Sessions::new(peers.chat);
    let jobs = Jobs::new(pool.clone(), sessions, wake.clone(), clock.clone(), enabled);
    let holds = Holds::new(pool.clone(), wake.clone(), clock.clone());
    let dead_letters = DeadLetters::new(pool.clone(), wake, clock);
    let ledger = Ledger::new(pool.clone());
    Server::new(NAME, config.server, authenticator)
        .service(PurgeHandler::new(jobs).into_server())
        .service(PurgeAdminHandler::new(holds, dead_letters, ledger).into_server())
        .ready_when(pool)
        .start(bound, metrics, &lifecycle)?;
    Ok(())
}

fn start_workers(
    config: &Config,
    lifecycle: &Lifecycle,
    pool: &Pool,
    wake: &Wake,
    clock: &SharedClock,
    enabled: &Arc<[Trigger]>,
    roster: Roster,
) {
    let counted = metrics::Metrics::new();
    let policy = config.retry.policy();
    let driver = Driver::new(pool.clone(), roster, clock.clone(), policy, counted.clone());
    let owner = format!("{NAME}/{}", new_id());
    let worker = Worker::new(
        pool.clone(),
        driver,
        clock.clone(),
        lifecycle.clone(),
        &owner,
        enabled.clone(),
        &config.worker,
    );
    worker.start(wake.clone());
    worker::gauges::start(pool.clone(), counted, config.worker.gauges_period, lifecycle);
    worker::retention::start(pool.clone(), &config.retention, lifecycle);
}

/// The other services.
struct Peers {
    chat: Peer,
    sandbox: Peer,
    registry: Peer,
}

impl Peers {
    fn load(config: &Config, clock: &SharedClock) -> Result<Self, StartError> {
        let signer = Arc::new(Signer::load(NAME, &config.identity, clock.clone())?);
        let peer =
            |custodian: Custodian, at: &PeerConfig| Peer::lazy(custodian.service(), at, signer.clone());
        Ok(Self {
            chat: peer(Custodian::Chat, &config.peers.chat)?,
            sandbox: peer(Custodian::Sandbox, &config.peers.sandbox)?,
            registry: peer(Custodian::Registry, &config.peers.registry)?,
        })
    }

    /// All of them as owners of data.
    fn roster(&self, config: &Config) -> Roster {
        let remote = |custodian, peer: &Peer, kinds: &BTreeSet<String>, at: &PeerConfig| {
            Remote::new(custodian, peer.clone(), kinds.clone(), at.timeout)
        };
        let (kinds, peers) = (&config.required_kinds, &config.peers);
        Roster {
            chat: remote(Custodian::Chat, &self.chat, &kinds.chat, &peers.chat),
            registry: remote(Custodian::Registry, &self.registry, &kinds.registry, &peers.registry),
            sandbox: remote(Custodian::Sandbox, &self.sandbox, &kinds.sandbox, &peers.sandbox),
        }
    }
}
