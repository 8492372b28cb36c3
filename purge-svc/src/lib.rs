//! purge-svc: erasure as a durable saga with receipts.
//!
//! It owns erasure jobs, the copies of external ids that a job makes before anything is deleted, dead letters,
//! holds, and the ledger of receipts. It is the only issuer of purge ids and the only caller of the custodian
//! contract. What it guarantees:
//!
//! * A demand that was accepted is carried out, whoever dies meanwhile ([`app::drive`], [`worker::drive`]).
//! * Nothing is erased while a hold stands, and nothing stops an erasure that has begun ([`domain::job`]).
//! * A subject counts as erased only once every owner of data has read back zero; what cannot be deleted keeps
//!   its job from ending.
//! * An erasure has one receipt, bound to the one before it, and neither it nor the job names the subject any
//!   more ([`domain::receipt`]).
//!
//! It never reads another service's tables.

pub mod app;
pub mod client;
pub mod config;
pub mod custodian;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod metrics;
pub mod service;
pub mod store;
pub mod worker;

pub use self::{
    config::Config,
    error::Error,
    service::{StartError, start},
    store::MIGRATOR,
};
