//! Starts the gateway: checks the configuration, builds the parts and spawns their tasks.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use svc_core::{
    base::StartError,
    data::redis::Redis,
    run::{
        clock::{SharedClock, SystemClock},
        config::Unusable,
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
    admit::{Admission, rate::RateLimiter},
    config::Config,
    openapi,
    routes::{self, a2a::A2aRoute, health::Readiness},
    server, stack,
    table::{self, Table},
    transcode::{Transcoder, call::Upstreams},
};

/// Each service's short name, used in the contract and the configuration, and its full name, which is the
/// audience of assertions.
const SERVICES: [(&str, &str); 4] =
    [("chat", "chat-svc"), ("sandbox", "sandbox-svc"), ("registry", "registry-svc"), ("purge", "purge-svc")];

/// Starts a gateway on `lifecycle`: listens, checks the configuration and the contract, spawns its tasks and
/// returns.
///
/// # Errors
/// If an address is taken, or the configuration or the contract cannot be used.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    Gateway::build(config, Deps::real(metrics)).await?.start(&lifecycle);
    Ok(())
}

/// The collaborators that tests replace.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The contract: an encoded `FileDescriptorSet` with its options.
    pub descriptors: &'static [u8],
    /// Clock for the times in assertions.
    pub clock: SharedClock,
    pub metrics: Metrics,
    /// Resolves API tokens; `None` asks registry-svc.
    pub tokens: Option<Arc<dyn TokenResolver>>,
}

impl Deps {
    /// Returns the collaborators of a real process.
    pub fn real(metrics: Metrics) -> Self {
        Self { descriptors: steward_proto::DESCRIPTORS, clock: SystemClock::shared(), metrics, tokens: None }
    }
}

/// A gateway that has bound its ports and checked its configuration and contract, and serves nothing yet.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    public: TcpListener,
    operators: TcpListener,
    metrics: Metrics,
    table: Table,
    admission: Admission,
    upstreams: Upstreams,
    a2a: Option<A2aRoute>,
}

impl Gateway {
    /// Binds the ports, then makes every part that can fail.
    ///
    /// # Errors
    /// See [`start`].
    pub async fn build(config: Config, deps: Deps) -> Result<Self, StartError> {
        config.check()?;
        // Binds the ports before it builds any part, so that a taken port is reported at once.
        let public = bind(config.listen).await?;
        let operators = bind(config.operator_listen).await?;
        let table = Table::decode(deps.descriptors).map_err(unservable)?;
        let signer = Arc::new(Signer::load(GATEWAY, &config.identity, deps.clock)?);
        let mut peers = HashMap::new();
        for (name, peer) in &config.peers {
            let known = SERVICES.iter().find(|(short, _)| short == name);
            let (_, full_name) =
                known.ok_or_else(|| Unusable::new(format!("peers.{name}"), "is no service of the plane"))?;
            peers.insert(name.clone(), Peer::lazy(full_name, peer, signer.clone())?);
        }
        let tokens = match (deps.tokens, peers.get("registry")) {
            (Some(tokens), _) => tokens,
            (None, Some(registry)) => Arc::new(RegistryTokens::new(registry.clone())),
            (None, None) => return Err(Unusable::new("peers", "lacks the registry").into()),
        };
        let upstreams = Upstreams::new(&table, peers, &config.requests)?;
        let redis = Redis::lazy(&config.redis);
        let redis = redis.map_err(|_| Unusable::new("redis.url", "is not a usable URL"))?;
        let rate = RateLimiter::new(&config.rate_limit, redis);
        let admission = Admission::new(&config, tokens, rate);
        let a2a = A2aRoute::new(&table, &admission, &upstreams).map_err(unservable)?;
        Ok(Self { config, public, operators, metrics: deps.metrics, table, admission, upstreams, a2a })
    }

    /// Returns the bound public address, with the real port where the configuration has port 0.
    ///
    /// # Errors
    /// Fails if the kernel does not return the address.
    #[cfg(feature = "test-util")]
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Returns the bound operator address.
    ///
    /// # Errors
    /// Fails if the kernel does not return the address.
    #[cfg(feature = "test-util")]
    pub fn operator_address(&self) -> std::io::Result<SocketAddr> {
        self.operators.local_addr()
    }

    /// Spawns tasks that serve until the lifecycle's soft token fires and then drain; returns at once.
    pub fn start(self, lifecycle: &Lifecycle) {
        let Self { config, public, operators, metrics, table, admission, upstreams, a2a } = self;
        let peers = upstreams.peers().map(|(name, peer)| (name.to_owned(), peer.clone())).collect();
        let readiness = Readiness::watch(peers, lifecycle);
        let document = routes::openapi::Document(Bytes::from(openapi::document(&table).to_string()));
        // Fires when the listener closes; open streams then end. They do not end earlier, when the gateway
        // only stops being ready.
        let drain = CancellationToken::new();
        let transcoder = Transcoder::new(table, admission, upstreams, config.streams, drain.clone());
        let router = stack::public(transcoder, readiness.clone(), document, a2a, &config.cors.origins);
        let closed = CancellationToken::new();

        let stop =
            server::Stop { soft: lifecycle.soft(), hard: lifecycle.hard(), drain, closed: closed.clone() };
        lifecycle.spawn_essential("http server", server::serve(public, router, config.connections, stop));
        // Serves until the last public connection has ended, so that an operator can watch the drain.
        let operators = axum::serve(operators, routes::health::operators(readiness, metrics));
        lifecycle.spawn_essential("operators' port", async move {
            tokio::select! {
                served = operators.into_future() => served,
                () = closed.cancelled() => Ok(()),
            }
        });
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::part(format!("listen on {address}"), error))
}

fn unservable(error: table::Error) -> StartError {
    StartError::part("serve the contract over HTTP", error)
}
