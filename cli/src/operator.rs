//! Commands that talk to a running plane through its public door, as any other client would.

pub mod api;
pub mod chat;
pub mod purge;
pub mod sse;
pub mod status;
pub mod token;
pub mod trace;
