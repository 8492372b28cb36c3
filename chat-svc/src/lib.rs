//! chat-svc: sessions, their turns, and the journal of every turn's events.
//!
//! A turn outlives the process that runs it: its row is leased, its steps and tool calls are journaled before
//! they take effect, and its events are committed before clients see them. When a worker is lost, another one
//! continues from the last committed step.
//!
//! chat-svc starts no container (sandbox-svc does) and decides on no erasure (purge-svc does).

#![cfg_attr(not(feature = "test-util"), expect(unreachable_pub, reason = "`testing` exports these items"))]

mod app;
mod backend;
mod client;
mod config;
mod domain;
mod error;
mod grpc;
mod journal;
mod metrics;
mod model;
mod service;
mod store;
mod worker;

pub use self::{
    config::Config,
    service::{NAME, start},
    store::MIGRATOR,
};

/// Items for this crate's own tests and benches.
#[cfg(feature = "test-util")]
pub mod testing {
    pub use crate::{
        config::ModelSection,
        domain::{
            event::{StoredEvent, TurnEvent},
            message::Role,
            session::InputPolicy,
            settings::{JournalConfig, OpenAiConfig, Timeouts},
            tool_call::{StopOutcome, ToolCallState},
            turn::TurnStatus,
        },
        journal::{Journal, Reader, TurnLog},
        model::scripted,
        store::{
            claims::take_over,
            erasure::TABLES,
            events::{last_seq, list_after},
            turns::{release, renew},
        },
    };
}
