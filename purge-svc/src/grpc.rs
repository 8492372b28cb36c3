//! The wire: take the call, parse its message, call the use case, answer.

pub mod admin;
mod convert;
pub mod purge;
