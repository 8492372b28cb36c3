//! The gateway put together: the only place that wires and spawns.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use svc_core::{
    data::redis::Redis,
    run::{
        clock::{SharedClock, SystemClock},
        lifecycle::Lifecycle,
        telemetry::Metrics,
    },
    wire::{
        assertion::{GATEWAY, Signer},
        auth::{TokenResolver, remote::RegistryTokens},
        client::Peer,
    },
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    admit::Admission,
    config::{Config, Unusable},
    door::{self, a2a::A2aDoor, health::Readiness},
    limit::rate::RateLimiter,
    openapi, server, stack,
    table::Table,
    transcode::{Transcoder, call::Upstreams},
};

/// The services of the plane: how the contract and the configuration call them, and how they call themselves.
const SERVICES: [(&str, &str); 4] =
    [("chat", "chat-svc"), ("sandbox", "sandbox-svc"), ("registry", "registry-svc"), ("purge", "purge-svc")];

/// What the gateway is built from, besides its configuration.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The contract: an encoded `FileDescriptorSet` with its options.
    pub descriptors: &'static [u8],
    /// Tells the time that assertions bear.
    pub clock: SharedClock,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Who knows API tokens; registry-svc if none is given.
    pub tokens: Option<Arc<dyn TokenResolver>>,
}

impl Deps {
    /// What a process runs with.
    #[must_use]
    pub fn real(metrics: Metrics) -> Self {
        Self { descriptors: steward_proto::DESCRIPTORS, clock: SystemClock::shared(), metrics, tokens: None }
    }
}

/// A gateway whose ports are taken and whose contract is checked; nothing of it runs yet.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    public: TcpListener,
    operators: TcpListener,
    metrics: Metrics,
    table: Table,
    admission: Admission,
    upstreams: Upstreams,
    a2a: Option<A2aDoor>,
}

impl Gateway {
    /// Takes the ports, then builds everything that can be wrong.
    ///
    /// # Errors
    /// [`Error`] says what is.
    pub async fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        config.check()?;
        // First, so that a clash shows at once.
        let public = bind(config.listen).await?;
        let operators = bind(config.operator_listen).await?;
        let table = Table::decode(deps.descriptors)?;
        let signer = Arc::new(Signer::load(GATEWAY, &config.identity, deps.clock)?);
        let mut peers = HashMap::new();
        for (name, peer) in &config.peers {
            let known = SERVICES.iter().find(|(short, _)| short == name);
            let (_, full_name) = known.ok_or_else(|| Error::UnknownPeer(name.clone()))?;
            peers.insert(name.clone(), Peer::lazy(full_name, peer, signer.clone())?);
        }
        let tokens = match (deps.tokens, peers.get("registry")) {
            (Some(tokens), _) => tokens,
            (None, Some(registry)) => Arc::new(RegistryTokens::new(registry.clone())),
            (None, None) => return Err(Unusable { key: "peers", problem: "lacks the registry" }.into()),
        };
        let upstreams = Upstreams::new(&table, peers, &config.requests)?;
        let rate = RateLimiter::new(&config.rate_limit, Redis::lazy(&config.redis).map_err(Error::Redis)?);
        let admission = Admission::new(&config, tokens, rate);
        let a2a = A2aDoor::new(&table, &admission, &upstreams)?;
        Ok(Self { config, public, operators, metrics: deps.metrics, table, admission, upstreams, a2a })
    }

    /// The public address in force (where the configuration said port 0).
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// The operators' address in force.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn operator_address(&self) -> std::io::Result<SocketAddr> {
        self.operators.local_addr()
    }

    /// Serves until the lifecycle's soft token fires, then drains. Spawns its tasks and returns.
    pub fn start(self, lifecycle: &Lifecycle) {
        let Self { config, public, operators, metrics, table, admission, upstreams, a2a } = self;
        let peers = upstreams.peers().map(|(name, peer)| (name.to_owned(), peer.clone())).collect();
        let readiness = Readiness::watch(peers, lifecycle);
        let document = door::openapi::Document(Bytes::from(openapi::document(&table).to_string()));
        // Fires once the door closes: streams end then, not already when readiness does.
        let drain = CancellationToken::new();
        let transcoder = Transcoder::new(table, admission, upstreams, config.streams, drain.clone());
        let router = stack::public(transcoder, readiness.clone(), document, a2a, &config.cors.origins);
        let closed = CancellationToken::new();

        let stop =
            server::Stop { soft: lifecycle.soft(), hard: lifecycle.hard(), drain, closed: closed.clone() };
        lifecycle.spawn_essential("http server", server::serve(public, router, config.connections, stop));
        // Answers until the public door is closed, so that an operator can watch the drain.
        let operators = axum::serve(operators, door::health::operators(readiness, metrics));
        lifecycle.spawn_essential("operators' port", async move {
            tokio::select! {
                served = operators.into_future() => served,
                () = closed.cancelled() => Ok(()),
            }
        });
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}
