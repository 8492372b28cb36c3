//! sandbox-svc against real Postgres and Redis, with a simulated engine whose containers run the real guest.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod custody;
mod execs;
mod making;
mod plane;
mod pool;
mod provision;
mod reconcile;
mod removal;
mod schema;
