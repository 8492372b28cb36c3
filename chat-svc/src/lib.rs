//! chat-svc: sessions, their turns, and the journal of everything a turn showed.
//!
//! It runs chat turns so that they outlive the processes that run them: a turn's row is leased, its steps and its
//! tool calls are journaled before they take effect, and what clients see is committed before they see it. What a
//! worker leaves behind, another one takes up from the last committed step.
//!
//! It touches no container (sandbox-svc does) and decides on no erasure (purge-svc does).

pub mod app;
pub mod backend;
pub mod client;
pub mod config;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod journal;
pub mod model;
pub mod service;
pub mod store;
pub mod worker;

pub use self::{
    config::Config,
    error::Error,
    service::{StartError, start},
    store::MIGRATOR,
};
