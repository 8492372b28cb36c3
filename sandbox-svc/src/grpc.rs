//! The wire: take the call, parse the message, call the use case, answer.

mod convert;
pub mod sandbox;
