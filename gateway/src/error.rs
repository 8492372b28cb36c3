//! Why the gateway could not start.

use std::net::SocketAddr;

use svc_core::wire::{assertion, client};

use crate::table;

/// The text of each names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] svc_core::run::config::Error),
    /// Another process listens on the address, or this machine does not have it.
    #[error("listen on {address}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("load the gateway's identity")]
    Identity(#[from] assertion::LoadError),
    /// A peer's configuration cannot be used.
    #[error("reach a service")]
    Peer(#[from] client::Error),
    #[error("serve the contract over HTTP")]
    Contract(#[from] table::Error),
    /// The URL of Redis cannot be used.
    #[error("configuration of gateway: redis.url is not usable")]
    Redis(#[source] svc_core::data::redis::Error),
}
