//! Sandboxes: one hardened container for each session.
//!
//! Owns engines, sandboxes, the warm pool, the journal of execs, and workspaces. Guarantees that a session
//! has at most one live sandbox, that every container has a row or a committed intent, that no row says
//! `gone` while its container exists or can still start, and that a keyed call runs at most once. Treats a
//! timeout as unknown, never as a fact, and destroys nothing that is unknown. Does not know turns.
//!
//! `grpc` (the wire) → `app` (use cases) → `domain` (pure), `store` (all SQL), `engine` (Docker), `client`
//! (the guests), `run_dirs` (the fence); `worker` runs the background tasks; `service` wires
//! them.
#![expect(unreachable_pub, reason = "`testing` exports items that the crate's own tests use")]

mod app;
mod client;
mod config;
mod domain;
mod engine;
mod error;
mod grpc;
mod metrics;
mod run_dirs;
mod service;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
mod worker;

pub use self::{config::Config, service::start, store::MIGRATOR};

/// Name of the service in assertions and telemetry.
pub const NAME: &str = "sandbox-svc";
