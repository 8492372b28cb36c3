//! Sandboxes: one hardened container for each session.
//!
//! Owns engines, sandboxes, the warm pool, the journal of execs, and workspaces. Guarantees that a session
//! has at most one live sandbox, that a row names each container before the engine is asked to create it,
//! that no row says `gone` while its container exists or can still start, and that a keyed call runs at most
//! once. After a timeout of the engine the state of the object is unknown, and nothing is removed because of
//! it. Stores no sessions and no turns; it asks chat-svc only whether an account has a session.
//!
//! `grpc` (handlers) → `app` (use cases) → `domain` (pure), `store` (all SQL), `engine` (Docker), `client`
//! (the guests), `run_dirs` (directories without which no container starts); `worker` runs the background
//! tasks; `service` builds and connects them.
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
