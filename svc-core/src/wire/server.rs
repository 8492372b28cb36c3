//! The gRPC server every service runs: one fixed stack of layers, health, reflection, drain; and beside it a
//! small HTTP port for operators with `/metrics`, `/healthz` and `/readyz`.

mod layers;
mod operator;

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::server::TcpIncoming,
};
use tower::Service;

pub use self::operator::{Check, CheckResult};
use crate::{
    run::{lifecycle::Lifecycle, telemetry::Metrics},
    wire::auth::Authenticator,
};

/// How a service listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// gRPC address.
    pub listen: SocketAddr,
    /// Operators' HTTP address: `/metrics`, `/healthz`, `/readyz`.
    pub operator_listen: SocketAddr,
    /// Longest time a unary call may take; a caller's shorter deadline wins.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Calls in hand at once; one more is refused with RESOURCE_EXHAUSTED.
    pub max_in_flight: usize,
    /// Time between "not serving" and closing the door, for balancers to notice.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
}

/// Why a server could not start or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is taken or not ours.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A method of a served service does not say who may call it.
    #[error("service {0} is not part of the contract")]
    NotInContract(&'static str),
    /// Reflection could not be built from the contract.
    #[error("build reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serve")]
    Transport(#[from] tonic::transport::Error),
    /// The operators' port failed.
    #[error("serve the operators' port")]
    Operator(#[source] std::io::Error),
}

/// Bound sockets: taken before any heavy work, so that a clash shows at once.
#[derive(Debug)]
pub struct Bound {
    grpc: TcpListener,
    operator: TcpListener,
}

impl Bound {
    /// Takes both ports.
    ///
    /// # Errors
    /// [`Error::Bind`] names the address.
    pub async fn bind(config: &ServerConfig) -> Result<Self, Error> {
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
        };
        Ok(Self { grpc: bind(config.listen).await?, operator: bind(config.operator_listen).await? })
    }

    /// The gRPC address in force (where the configuration said port 0).
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }
}

/// Collects a process's gRPC services, then serves them.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    config: ServerConfig,
    authenticator: Authenticator,
    routes: RoutesBuilder,
    services: BTreeSet<&'static str>,
    checks: Vec<Arc<dyn Check>>,
}

impl Server {
    /// A server of the service called `name` ("chat-svc").
    #[must_use]
    pub fn new(name: &'static str, config: ServerConfig, authenticator: Authenticator) -> Self {
        Self {
            name,
            config,
            authenticator,
            routes: Routes::builder(),
            services: BTreeSet::new(),
            checks: Vec::new(),
        }
    }

    /// Serves `service` too.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.services.insert(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Is ready only while `check` passes.
    #[must_use]
    pub fn ready_when(mut self, check: impl Check + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Serves until the lifecycle's soft token fires, then drains. Spawns its tasks and returns.
    ///
    /// # Errors
    /// [`Error`] if a service is not part of the contract.
    pub fn start(mut self, bound: Bound, metrics: Metrics, lifecycle: &Lifecycle) -> Result<(), Error> {
        for name in &self.services {
            let prefix = format!("/{name}/");
            if !self.authenticator.methods().paths().any(|path| path.starts_with(&prefix)) {
                return Err(Error::NotInContract(name));
            }
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(steward_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        self.routes
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let router = layers::stack(self.routes.routes().into_axum_router(), &self.config, self.authenticator);

        let soft = lifecycle.soft();
        let (drain_delay, names) = (self.config.drain_delay, self.services);
        // Events are small: held back until the last one was acknowledged, each would wait for milliseconds. The
        // builder's own setting of this name applies only to sockets that the builder binds.
        let incoming = TcpIncoming::from(bound.grpc).with_nodelay(Some(true));
        let reporter = health.clone();
        let drain = async move {
            soft.cancelled().await;
            reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            for name in names {
                reporter.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
            }
            tokio::time::sleep(drain_delay).await;
        };
        lifecycle.spawn_essential("grpc server", async move {
            tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(20)))
                .http2_keepalive_timeout(Some(Duration::from_secs(10)))
                .max_connection_age_grace(Duration::from_secs(30))
                .add_routes(Routes::from(router))
                .serve_with_incoming_shutdown(incoming, drain)
                .await
        });
        operator::start(self.name, bound.operator, self.checks, health, metrics, lifecycle);
        Ok(())
    }
}
