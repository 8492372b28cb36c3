//! purge-svc: erasure as a durable saga with receipts.

pub mod domain;
pub mod store;

pub use self::store::MIGRATOR;
