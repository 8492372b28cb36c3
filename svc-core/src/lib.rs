//! What every Steward service needs once: errors, configuration, lifecycle, identity, telemetry, the gRPC
//! server and client stacks, Postgres and Redis plumbing, leases and custody.
//!
//! It knows no business noun except ids. Services depend on this crate and on the contract, never on each other.

pub mod assertion;
pub mod auth;
pub mod backoff;
pub mod client;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod error;
pub mod failpoint;
pub mod id;
pub mod lifecycle;
pub mod outbound;
pub mod principal;
pub mod process;
pub mod server;
pub mod telemetry;
