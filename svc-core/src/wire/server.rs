//! The gRPC server of every service, with the same layers, health service, reflection and drain, and a small
//! HTTP listener for operators (`/metrics`, `/healthz`, `/readyz`).

mod layers;
mod operator;
mod reflection;

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

use crate::{
    run::{lifecycle::Lifecycle, readiness::Check, telemetry::Metrics},
    wire::auth::Authenticator,
};

/// Listeners and limits of a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    /// HTTP address for operators: `/metrics`, `/healthz`, `/readyz`.
    pub operator_listen: SocketAddr,
    /// Maximum time of a unary call. A shorter deadline of the caller replaces it.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Maximum number of calls that are being handled at once; one more is refused with RESOURCE_EXHAUSTED. A
    /// streaming call counts until its answer begins. Calls that authenticate tokens have the same limit,
    /// counted separately.
    pub max_in_flight: usize,
    /// Time between the report "not serving" and the close of the listener, in which load balancers notice
    /// the report.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
}

/// A server could not start, or failed while it ran.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is in use, or is no address of this host.
    #[error("listen on {address}")]
    Bind {
        address: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The contract has no such service.
    #[error("service {0} is not part of the contract")]
    NotInContract(&'static str),
    /// The contract's files for reflection could not be read.
    #[error("read the contract for reflection")]
    Contract(#[from] prost_reflect::DescriptorError),
    /// Reflection could not be built from the files.
    #[error("build reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("serve")]
    Transport(#[from] tonic::transport::Error),
    /// The operators' listener failed.
    #[error("serve the operators' port")]
    Operator(#[source] std::io::Error),
}

/// The sockets of a server. They are bound before any slow work, so that an address in use is reported at
/// once.
#[derive(Debug)]
pub struct Bound {
    grpc: TcpListener,
    operator: TcpListener,
}

impl Bound {
    /// Binds both addresses.
    ///
    /// # Errors
    /// [`Error::Bind`] names the address.
    pub async fn bind(config: &ServerConfig) -> Result<Self, Error> {
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
        };
        Ok(Self { grpc: bind(config.listen).await?, operator: bind(config.operator_listen).await? })
    }

    /// Returns the gRPC address. If port 0 is configured, its port is the one that the system chose.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }
}

/// Collects the gRPC services of a process and serves them.
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
    /// Builds a server of the service called `name` ("chat-svc").
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

    /// Makes the service ready only while `check` passes.
    #[must_use]
    pub fn ready_when(mut self, check: impl Check + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Spawns the tasks that serve until the lifecycle's soft token fires and then drain, and returns.
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
        self.routes.add_service(health_service);
        reflection::add(&mut self.routes, &self.services)?;
        let router = layers::stack(self.routes.routes().into_axum_router(), &self.config, self.authenticator);

        let soft = lifecycle.soft();
        let (drain_delay, names) = (self.config.drain_delay, self.services);
        // Without `nodelay` each event of a stream would wait some milliseconds for the acknowledgement of
        // the previous one. The builder's own setting applies only to sockets that the builder binds.
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
