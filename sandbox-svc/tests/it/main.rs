//! Tests sandbox-svc with real Postgres and Redis, and with a simulated engine that runs the real guest.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod admission;
mod custody;
mod execs;
mod files;
mod making;
mod plane;
mod pool;
mod provision;
mod reconcile;
mod removal;
mod schema;
