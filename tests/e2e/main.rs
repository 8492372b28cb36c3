//! The whole plane, as its users meet it: through the public door, on real servers, with processes that die.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets what it does not expect fails")]

mod degraded;
mod dev;
mod erasure;
mod kills;
mod outages;
mod readme;
mod refusals;
mod replicas;
mod takeover;
mod tenancy;
mod tools;
mod traces;
mod turns;
