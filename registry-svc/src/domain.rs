//! What registry-svc knows about the world, without touching it: pure types and transitions, time comes in.

pub mod account;
pub mod name;
pub mod token;
