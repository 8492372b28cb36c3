//! The gateway: the public HTTP API, with one generic implementation for every RPC of the contract.
//!
//! It authenticates callers, limits them, turns HTTP/JSON into gRPC and back, and streams events. It stores
//! nothing durable, and leaves every business decision to the services. Any number of gateways run side by
//! side; they share only the rate limits in Redis, and work without Redis.
//!
//! | Module | Contents |
//! |---|---|
//! | `table` | the routes, read at start from the contract's `google.api.http` options |
//! | `transcode` | the steps of a request: match, admit, decode, call, encode |
//! | `admit` | authentication, rate limits, concurrency limits, body limits |
//! | `problem` | error responses |
//! | `routes` | the routes that are not in the contract: A2A, health, `/openapi.json` |
//! | `stack`, `layer` | the layers around every request |
//! | `server` | the public listener and its connections |
//! | `openapi` | the API's description, made from the table |
//! | `service` | start-up: builds all parts and spawns their tasks |

#![cfg_attr(not(feature = "test-util"), expect(unreachable_pub, reason = "`testing` exports these items"))]

mod admit;
mod config;
mod headers;
mod layer;
mod metrics;
mod openapi;
mod problem;
mod routes;
mod server;
mod service;
mod stack;
mod table;
mod transcode;

pub use self::{
    config::{Config, NAME},
    service::start,
};

/// Items that the integration tests use.
#[cfg(feature = "test-util")]
pub mod testing {
    pub use crate::{
        config::{Origin, Timeout},
        service::{Deps, Gateway},
    };
}
