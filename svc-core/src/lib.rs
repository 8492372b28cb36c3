//! What every Steward service needs once: errors, configuration, lifecycle, identity, telemetry, the gRPC
//! server and client stacks, Postgres and Redis plumbing, leases and custody.
//!
//! It knows no business noun except ids. Services depend on this crate and on the contract, never on each other.

pub mod assertion;
pub mod audit;
pub mod auth;
pub mod backoff;
pub mod breaker;
pub mod client;
pub mod clock;
pub mod config;
pub mod custody;
pub mod deadline;
pub mod error;
pub mod failpoint;
pub mod id;
pub mod idempotency;
pub mod lease;
pub mod lifecycle;
pub mod outbound;
pub mod page;
pub mod pg;
pub mod pg_enum;
pub mod principal;
pub mod process;
pub mod redis;
pub mod server;
pub mod telemetry;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod wake;
