//! Tests the whole plane as its users see it: through the public API, on real servers, with processes that
//! are killed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets what it does not expect fails")]

mod agents;
mod degraded;
mod dev;
mod erasure;
#[path = "../../registry-svc/tests/it/fake_agent.rs"]
#[expect(dead_code, reason = "what is not scripted here is in the registry's own tests")]
mod fake_agent;
mod faults;
mod readme;
mod refusals;
mod replicas;
mod tenancy;
mod tools;
mod traces;
mod turns;
