//! What tests of every crate stand on: a database of their own, a Redis of their own, and a wire that fails.
//!
//! Test code may end in a panic; nothing here is built into a service.

#![expect(clippy::expect_used, clippy::panic, reason = "a test without its database has failed")]

mod db;
mod fault_proxy;
mod redis;

pub use self::{db::TestDb, fault_proxy::FaultProxy, redis::TestRedis};

#[cfg(test)]
mod tests;
