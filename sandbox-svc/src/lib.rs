//! Sandboxes: one hardened container a session.
//!
//! Owns engines, sandboxes, the warm pool, the journal of execs, and workspaces. Guarantees that a session has at
//! most one live sandbox, that no container is without a row or a committed intent, that no row says "gone" while
//! its container exists or can still start, and that a keyed call runs at most once. Refuses to derive a fact from
//! a timeout: what the engine did not say is unknown, and unknown destroys nothing. Does not know what a turn is.
//!
//! `grpc` (the doors) → `app` (use cases) → `domain` (pure), `store` (all SQL), `engine` (Docker), `client` (the
//! guest inside), `run_dirs` (the fence); `worker` runs what nobody asks for; `service` wires them.

pub mod app;
pub mod client;
pub mod config;
pub mod domain;
pub mod engine;
pub mod error;
pub mod grpc;
pub mod run_dirs;
pub mod service;
pub mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod worker;

pub use self::{config::Config, error::Error, service::start, store::MIGRATOR};
