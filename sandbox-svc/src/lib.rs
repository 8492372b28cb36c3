//! Sandboxes: one hardened container a session.

pub mod domain;
pub mod engine;
pub mod guest;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
