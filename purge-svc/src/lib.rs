//! purge-svc: erasure as a durable saga with receipts.
//!
//! It owns erasure jobs, the copies of external ids that a job makes before anything is deleted, dead
//! letters, holds, and the ledger of receipts. It is the only issuer of purge ids and the only caller of the
//! custodian contract. It guarantees:
//!
//! * An accepted erasure is carried out although workers die (`app::drive`, `app::run`).
//! * Nothing is erased while a hold stands, and nothing stops an erasure that has begun (`domain::job`).
//! * A subject counts as erased only after every custodian has read back zero; an object that cannot be
//!   deleted keeps its job from ending.
//! * An erasure has one receipt, which is bound to the receipt before it. After it neither the receipt nor
//!   the job names the subject (`domain::receipt`).
//!
//! It never reads another service's tables.
#![cfg_attr(not(feature = "test-util"), expect(unreachable_pub, reason = "tests reach it through `testing`"))]

mod app;
mod client;
mod config;
mod domain;
mod error;
mod grpc;
mod metrics;
mod service;
mod store;
#[cfg(feature = "test-util")]
pub mod testing;
mod worker;

pub use self::{
    config::Config,
    service::{NAME, start},
    store::MIGRATOR,
};
