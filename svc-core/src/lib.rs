//! What every Steward service needs once. It knows no business noun except ids and subjects of erasure. Services
//! depend on this crate and on the contract, never on each other.
//!
//! | Module | What it owns |
//! |---|---|
//! | [`id`] | typed UUIDv7 ids |
//! | [`subject`] | subjects of erasures and the state of their custody |
//! | [`wire`] | the gRPC and HTTP edge: callers, errors, servers, clients, outbound requests |
//! | [`data`] | Postgres and Redis: transactions, leases, idempotency keys, audit, wake-ups |
//! | [`run`] | a process: configuration, lifecycle, clock, telemetry, back-off, breakers |
//! | [`base`] | what all services with a database are configured with, and how they start |
//! | [`custody`] | a service's part in erasures |
//! | `testing` | databases, servers and faults for tests (feature `test-util`) |

pub mod base;
pub mod custody;
pub mod data;
pub mod error;
pub mod id;
pub mod run;
pub mod subject;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod wire;
