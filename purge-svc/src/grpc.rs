//! gRPC handlers: each parses its request, calls one use case and converts the result.

pub(crate) mod admin;
mod convert;
pub(crate) mod purge;
