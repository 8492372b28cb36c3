//! purge-svc: erasure as a durable saga with receipts.
//!
//! It owns erasure jobs, the copies of external ids that a job makes before anything is deleted, dead
//! letters, holds, and the ledger of receipts. It is the only issuer of purge ids and the only caller of the
//! custodian contract, which every service that holds data implements. It guarantees:
//!
//! * An accepted erasure is carried out although workers die (`app::drive`, `app::run`).
//! * No erasure passes its point of no return while a hold on the subject or its account is in force; after
//!   that point, neither a hold nor a cancellation stops it (`domain::job`).
//! * A subject counts as erased only after every custodian has read back zero; a job does not end while an
//!   object cannot be deleted.
//! * An erasure has one receipt, which contains the hash of the receipt before it. Once it is written,
//!   neither the receipt nor the job names the subject (`domain::receipt`).
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
