//! Postgres and Redis as a service uses them.

pub mod audit;
pub mod data_map;
pub mod idempotency;
pub mod lease;
pub mod pg;
pub mod pg_enum;
pub mod redis;
pub mod wake;

pub use crate::pg_enum;
