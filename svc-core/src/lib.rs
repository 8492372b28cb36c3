//! Library shared by all Steward services. It contains no business logic except ids and the subjects of
//! erasures. A service depends on this crate and on the contract, never on another service.
//!
//! | Module | Content |
//! |---|---|
//! | [`error`] | errors that callers receive: kinds, the public part, gRPC statuses |
//! | [`id`] | typed UUIDv7 ids |
//! | [`subject`] | what an erasure deletes (an account or a session), and whether it may be written |
//! | [`run`] | a process: configuration, lifecycle, clock, telemetry, back-off, breakers |
//! | [`data`] | Postgres and Redis: transactions, leases, idempotency keys, audit, wake-ups |
//! | [`wire`] | gRPC and HTTP: callers, handlers, servers, clients, outbound requests |
//! | [`base`] | configuration and start of every service with a database |
//! | [`custody`] | a service's part in erasures |
//! | `testing` | databases, servers and faults for tests (feature `test-util`) |
//!
//! A module may use only modules listed above it.

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
