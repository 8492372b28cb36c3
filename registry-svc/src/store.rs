//! All SQL and all Redis commands of registry-svc. The callers make the ids of rows and own the transaction.
//! A query for a tenant's request has the tenant's account in its condition.

pub(crate) mod accounts;
pub(crate) mod agents;
pub(crate) mod beats;
pub(crate) mod erasure;
pub(crate) mod lanes;
pub(crate) mod liveness;
pub(crate) mod messages;
mod pg_enums;
pub(crate) mod tokens;

/// This service's migrations; svc-core's common ones come before them.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();
