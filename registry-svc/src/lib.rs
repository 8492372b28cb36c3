//! registry-svc: accounts, API tokens, agents, and the relay of messages between them.
//!
//! - Every other service resolves bearer tokens here (`app::tokens`). A token's secret is shown once and
//!   stored as a hash.
//! - A tenant creates an agent; the agent's process registers with an enrolment, a credential for one
//!   registration (`app::register`). `domain::status` decides which status follows which.
//! - Heartbeats keep an agent online (`app::heartbeat`); a sweep marks silent agents offline (`app::sweep`).
//! - The relay stores A2A messages and delivers them (`app::relay`).
//!
//! Agents, messages and tokens belong to a tenant, except the tokens of operators. Another tenant that names
//! one of them gets `NOT_FOUND`.
//!
//! registry-svc runs no model, stores no chat session and starts no container.

#![cfg_attr(
    not(feature = "test-util"),
    expect(unreachable_pub, reason = "the items of `testing` are public for the tests of this crate alone")
)]

mod app;
mod config;
mod domain;
mod error;
mod grpc;
mod metrics;
pub mod operator;
mod service;
mod store;
mod worker;

pub use self::{
    config::Config,
    service::{NAME, start},
    store::MIGRATOR,
};

/// Items for the integration tests of this crate.
#[cfg(feature = "test-util")]
pub mod testing {
    pub use crate::{
        app::custodian::kinds,
        domain::{
            a2a::Version, account::Account, agent::DeliveryMode, relay_state::State, status::Status,
            token::TokenKind,
        },
        store::{accounts::insert as insert_account, erasure::TABLES},
    };
}
