//! Postgres and Redis as a service uses them.
//!
//! | Module | Content |
//! |---|---|
//! | [`pg`] | pool, transactions, errors, migrations |
//! | [`pg_enum`] | domain enums as Postgres enums |
//! | [`lease`] | leases on rows and on tasks, with fencing |
//! | [`idempotency`] | requests that may be repeated |
//! | [`audit`] | the log of irreversible acts |
//! | [`data_map`] | the class of each table and column for erasures |
//! | [`redis`] | the connection to Redis |
//! | [`wake`] | hints that replicas send each other |

pub mod audit;
pub mod data_map;
pub mod idempotency;
pub mod lease;
pub mod pg;
pub mod pg_enum;
pub mod redis;
pub mod wake;
