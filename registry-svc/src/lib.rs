//! registry-svc: who there is, and how they reach each other.
//!
//! It owns accounts, API tokens and agents. Every other service asks it whom a bearer token names
//! ([`app::tokens`]); a token's secret is shown once and stored as a hash. An agent is created by its tenant,
//! registers itself with a credential that is good for that ([`app::register`]), and has one status, written by
//! one function ([`domain::status`]); that it lives is known from its beats ([`app::heartbeat`], [`app::sweep`]). What belongs to a tenant is found under that tenant only: somebody else's is
//! not there.
//!
//! It runs no model, keeps no conversation and starts no container.

pub mod app;
pub mod config;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod metrics;
pub mod operator;
pub mod service;
pub mod store;
pub mod worker;

pub use self::{
    config::Config,
    error::Error,
    service::{StartError, start},
    store::MIGRATOR,
};
