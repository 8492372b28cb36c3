//! The wire: parse, call, map, answer.

pub(crate) mod chat;
mod convert;
pub(crate) mod stream;
