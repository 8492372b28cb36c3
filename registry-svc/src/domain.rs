//! What registry-svc knows about the world, without touching it: pure types and transitions, time comes in.

pub mod a2a;
pub mod account;
pub mod agent;
pub mod beat;
pub mod delivery;
pub mod name;
pub mod status;
pub mod token;
