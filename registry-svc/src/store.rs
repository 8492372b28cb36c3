//! All SQL and all Redis of registry-svc. Functions write exactly what they are given; who calls them makes ids
//! and times, and owns the transaction. Every query for a tenant's rows takes the tenant.

pub mod accounts;
pub mod agents;
pub mod beats;
pub mod erasure;
pub mod lanes;
pub mod liveness;
pub mod messages;
mod pg_enums;
pub mod tokens;

/// This service's migrations; svc-core's common ones come before them.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();
