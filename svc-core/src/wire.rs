//! gRPC and HTTP: the calls that a service receives and makes.
//!
//! | Module | Content |
//! |---|---|
//! | [`principal`] | callers and what they may do |
//! | [`assertion`] | signed statements of a process about who makes a call |
//! | [`auth`] | credentials, and which callers each method admits |
//! | [`deadline`] | deadlines of calls |
//! | [`grpc`] | tools of a gRPC handler |
//! | [`page`] | pages of a listing |
//! | [`server`] | the gRPC server and the operators' listener |
//! | [`client`] | calls to other Steward services |
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
