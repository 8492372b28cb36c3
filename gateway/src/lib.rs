//! The HTTP edge: one generic door to every RPC of the contract.
//!
//! It authenticates, limits, turns HTTP/JSON into gRPC and back, and streams events; it owns nothing durable and
//! decides nothing that a service decides. What it serves is the contract's `google.api.http` options, read at
//! start ([`table`]); a request goes through match, admit ([`admit`]), decode, call and encode ([`transcode`]), and
//! whatever fails is a [`problem`]. What is not the contract's own protocol has a route of its own ([`door`]).
//! Any number of gateways run side by side; all they share is the rate limit's Redis, and they do without.

pub mod admit;
pub mod config;
pub mod door;
mod error;
pub mod layer;
pub mod limit;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod server;
pub mod service;
pub mod stack;
pub mod table;
pub mod transcode;

use svc_core::run::{lifecycle::Lifecycle, telemetry::Metrics};

pub use self::{
    config::Config,
    error::Error,
    service::{Deps, Gateway},
};

/// Starts a gateway on `lifecycle`: takes its ports, checks everything, spawns its tasks and returns.
///
/// # Errors
/// [`Error`] says why there is no gateway.
pub async fn run(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), Error> {
    Gateway::build(config, Deps::real(metrics)).await?.start(&lifecycle);
    Ok(())
}

#[cfg(test)]
mod testing;
