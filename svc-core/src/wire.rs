//! The gRPC and HTTP edge of a service.

pub mod assertion;
pub mod auth;
pub mod client;
pub mod deadline;
pub mod grpc;
pub mod outbound;
pub mod page;
pub mod principal;
pub mod server;

pub use crate::error;
