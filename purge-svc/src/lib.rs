//! purge-svc: erasure as a durable saga with receipts.

pub mod domain;
