//! The gRPC services: take the call, parse its message, call the use case, answer.

pub(crate) mod accounts;
pub(crate) mod agents;
pub(crate) mod auth;
mod convert;
pub(crate) mod heartbeats;
mod json;
pub(crate) mod relay;
