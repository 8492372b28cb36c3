//! gRPC and HTTP at the edge of a service.
//!
//! | Module | Content |
//! |---|---|
//! | [`principal`] | callers and what they may do |
//! | [`assertion`] | signed statements of one process about its caller |
//! | [`auth`] | credentials, and which callers each method admits |
//! | [`deadline`] | deadlines, passed on with every call |
//! | [`grpc`] | tools of a gRPC handler |
//! | [`page`] | pages of a listing |
//! | [`server`] | the gRPC server and the operators' listener |
//! | [`client`] | calls to other services of the plane |
//! | [`outbound`] | calls to URLs that users and agents gave |

pub mod assertion;
pub mod auth;
pub mod client;
pub mod deadline;
pub mod grpc;
pub mod outbound;
pub mod page;
pub mod principal;
pub mod server;
