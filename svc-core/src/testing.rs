//! Fixtures for the tests of every crate: a database and a Redis prefix for each test, and connections that
//! fail on demand.
//!
//! Test code may panic. Services are built without it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test without its database has failed")]

pub mod bench;
mod db;
mod fault_proxy;
mod redis;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::RngExt as _;
use url::Url;

pub use self::{db::TestDb, fault_proxy::FaultProxy, redis::TestRedis};

/// Returns the server's URL from the environment variable `variable`. There is no default: a test that used
/// whatever server it found would pass on one machine only.
fn server_url(variable: &str) -> Url {
    let Ok(server) = std::env::var(variable) else {
        panic!("{variable} is not set: run tests with `make test`, or under `steward stack exec`");
    };
    Url::parse(&server).expect("the test server's URL is one")
}

/// Returns a loopback address on which no process listens, for a server that needs its address in advance.
///
/// The port lies below the range from which Linux takes ports of outgoing connections (32768 and up), so
/// Linux does not give it to a connection of another process before the server listens.
pub fn free_address() -> SocketAddr {
    let mut rng = rand::rng();
    (0..64)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, rng.random_range(20_000..32_768))))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a port is free on the loopback address")
}

#[cfg(test)]
mod tests;
