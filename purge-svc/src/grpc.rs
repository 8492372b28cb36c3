//! The wire: take the call, parse its message, call the use case, answer.

pub(crate) mod admin;
mod convert;
pub(crate) mod purge;
