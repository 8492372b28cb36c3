//! Why the gateway could not start or run.

use std::net::SocketAddr;

use svc_core::wire::{assertion, client};

use crate::{config::Unusable, table};

/// Why the gateway could not start or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] svc_core::run::config::Error),
    /// The configuration cannot work.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// An address is taken or not ours.
    #[error("listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// This process's identity could not be loaded.
    #[error("load the gateway's identity")]
    Identity(#[from] assertion::LoadError),
    /// A service behind the door cannot be called.
    #[error("reach a service")]
    Peer(#[from] client::Error),
    /// A peer is configured that the plane does not have.
    #[error("configuration of gateway: peers.{0} is no service of the plane")]
    UnknownPeer(String),
    /// The contract cannot be served.
    #[error("serve the contract over HTTP")]
    Contract(#[from] table::Error),
    /// Redis cannot be reached as configured.
    #[error("configuration of gateway: redis.url is not usable")]
    Redis(#[source] svc_core::data::redis::Error),
    /// A door failed.
    #[error("serve HTTP")]
    Serve(#[source] std::io::Error),
}
