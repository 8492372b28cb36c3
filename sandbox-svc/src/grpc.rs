//! gRPC handlers: each one takes the call, parses the message, calls the use case and answers.

mod convert;
pub mod sandbox;
