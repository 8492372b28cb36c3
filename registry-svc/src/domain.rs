//! The types and rules of registry-svc, without I/O; times are arguments.

pub(crate) mod a2a;
pub(crate) mod account;
pub(crate) mod agent;
pub(crate) mod beat;
pub(crate) mod delivery;
pub(crate) mod lane;
pub(crate) mod message;
pub(crate) mod relay_state;
pub(crate) mod status;
pub(crate) mod token;
