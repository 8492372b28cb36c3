//! What tests of every crate stand on: a database of their own, a Redis of their own, and a wire that fails.
//!
//! Test code may end in a panic; nothing here is built into a service.

#![expect(clippy::expect_used, clippy::panic, reason = "a test without its database has failed")]

pub mod bench;
mod db;
mod fault_proxy;
mod redis;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::RngExt as _;
use url::Url;

pub use self::{db::TestDb, fault_proxy::FaultProxy, redis::TestRedis};

/// The server that `variable` names. There is no default: a test that found some other server by chance would
/// pass where it was written and nowhere else.
fn server_url(variable: &str) -> Url {
    let Ok(server) = std::env::var(variable) else {
        panic!("{variable} is not set: run tests with `make test`, or under `steward stack exec`");
    };
    Url::parse(&server).expect("the test server's URL is one")
}

/// A loopback address that nothing listens on, for a server that is told where to listen.
///
/// It lies below the range that Linux takes ports of outgoing connections from (32768 and up): until the server
/// listens there, nobody gets it by chance.
#[must_use]
pub fn free_address() -> SocketAddr {
    let mut rng = rand::rng();
    (0..64)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, rng.random_range(20_000..32_768))))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a port is free on the loopback address")
}

#[cfg(test)]
mod tests;
