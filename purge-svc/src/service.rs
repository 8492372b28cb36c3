//! Builds purge-svc from its configuration; no other file spawns its tasks.

use std::{collections::BTreeSet, sync::Arc};

use svc_core::{
    base::{Base, ServiceConfig, StartError, Starting},
    data::wake::Wake,
    run::{lifecycle::Lifecycle, telemetry::Metrics},
    wire::{
        assertion::Signer,
        auth::remote::RegistryTokens,
        client::{self, Peer, PeerConfig, Sessions},
    },
};

use crate::{
    app::{
        claims::{Claiming, Claims},
        dead_letters::DeadLetters,
        drive::Driver,
        holds::Holds,
        jobs::Jobs,
        ledger::Ledger,
        run::Runner,
    },
    client::{Roster, custodian::CustodianClient},
    config::{Config, Settings},
    domain::{custodian::Custodian, trigger::Trigger},
    grpc::{admin::PurgeAdminHandler, purge::PurgeHandler},
    metrics,
    store::MIGRATOR,
    worker::{self, drive::Worker},
};

/// The service's name in assertions and telemetry.
pub const NAME: &str = Settings::NAME;

/// Starts purge-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns.
///
/// # Errors
/// [`StartError`] names what does not work.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    let (starting, settings) = Starting::new(config, lifecycle, metrics).await?;
    let peers = Peers::new(&settings, &starting.signer()?)?;
    let base = starting.open(&MIGRATOR).await?;
    let wake = base.wake();

    let enabled: Arc<[Trigger]> = settings.triggers.clone().into();
    if enabled.is_empty() {
        tracing::warn!("no trigger is switched on: erasures are accepted and wait");
    }
    start_workers(&base, &settings, &wake, &enabled, peers.roster(&settings));
    let (pool, clock) = (base.pool.clone(), base.clock.clone());
    let holds = Holds::new(pool.clone(), wake.clone(), clock.clone());
    let dead_letters = DeadLetters::new(pool.clone(), wake.clone(), clock.clone());
    let ledger = Ledger::new(pool.clone());
    let jobs = Jobs { pool, sessions: Sessions::new(peers.chat), wake, clock, enabled };
    base.serve(RegistryTokens::new(peers.registry), settings.tokens.remembered, |server| {
        server
            .service(PurgeHandler::new(jobs).into_server())
            .service(PurgeAdminHandler::new(holds, dead_letters, ledger).into_server())
    })
}

fn start_workers(base: &Base, settings: &Settings, wake: &Wake, enabled: &Arc<[Trigger]>, roster: Roster) {
    let counted = metrics::Metrics::default();
    let (pool, clock) = (&base.pool, &base.clock);
    let policy = settings.retry.policy();
    let driver = Driver::new(pool.clone(), roster, clock.clone(), policy, counted.clone());
    let claiming =
        Claiming { holder: base.lease_holder(), ttl: settings.worker.lease_ttl, triggers: enabled.clone() };
    let claims = Claims::new(pool.clone(), clock.clone(), claiming);
    let worker = Worker {
        runner: Runner::new(claims, driver),
        wake: wake.clone(),
        lifecycle: base.lifecycle.clone(),
        poll: settings.worker.poll,
        concurrency: settings.worker.concurrency,
    };
    worker.start();
    worker::gauges::start(pool.clone(), counted, settings.worker.gauges_period, &base.lifecycle);
    base.delete_expired_keys(&settings.retention);
}

struct Peers {
    chat: Peer,
    sandbox: Peer,
    registry: Peer,
}

impl Peers {
    fn new(settings: &Settings, signer: &Arc<Signer>) -> Result<Self, client::Error> {
        let peer =
            |custodian: Custodian, at: &PeerConfig| Peer::lazy(custodian.service(), at, signer.clone());
        Ok(Self {
            chat: peer(Custodian::Chat, &settings.peers.chat)?,
            sandbox: peer(Custodian::Sandbox, &settings.peers.sandbox)?,
            registry: peer(Custodian::Registry, &settings.peers.registry)?,
        })
    }

    /// Returns a client of each custodian.
    fn roster(&self, settings: &Settings) -> Roster {
        let client = |custodian, peer: &Peer, kinds: &BTreeSet<String>, at: &PeerConfig| {
            CustodianClient::new(custodian, peer.clone(), kinds.clone(), at.timeout)
        };
        let (kinds, peers) = (&settings.required_kinds, &settings.peers);
        Roster {
            chat: client(Custodian::Chat, &self.chat, &kinds.chat, &peers.chat),
            registry: client(Custodian::Registry, &self.registry, &kinds.registry, &peers.registry),
            sandbox: client(Custodian::Sandbox, &self.sandbox, &kinds.sandbox, &peers.sandbox),
        }
    }
}
