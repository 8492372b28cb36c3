//! gRPC handlers: each parses its request, calls one use case and converts the result.

pub(crate) mod accounts;
pub(crate) mod agents;
pub(crate) mod auth;
mod convert;
pub(crate) mod heartbeats;
mod json;
pub(crate) mod relay;
