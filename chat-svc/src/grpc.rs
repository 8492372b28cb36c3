//! gRPC handlers: they parse a request, call a use case, and convert its result to the contract's types.

pub(crate) mod chat;
mod convert;
pub(crate) mod stream;
