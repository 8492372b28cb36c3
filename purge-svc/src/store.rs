//! All SQL of purge-svc. Functions run on the connection or transaction that the caller passes. `domain`
//! decides the new state of a job; `app` decides which writes are in one transaction.

use svc_core::{data::pg, pg_enum};

use crate::domain::{job::Phase, trigger::Trigger};

pub mod claims;
pub mod dead_letters;
pub mod external_objects;
pub mod holds;
pub mod jobs;
pub mod receipts;
pub mod steps;

/// Migrations of the schema `purge`.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

pg_enum!(Trigger as "purge_trigger" {
    SubjectRequest => "subject_request",
    UserErasure => "user_erasure",
    AccountDeletion => "account_deletion",
    GraceExpiry => "grace_expiry",
});
pg_enum!(Phase as "purge_phase" {
    Pending => "pending",
    Frozen => "frozen",
    Inventoried => "inventoried",
    Erasing => "erasing",
    Erased => "erased",
    Verified => "verified",
});

/// Reads a stored SHA-256.
fn sha256(
    table: &'static str,
    column: &'static str,
    row: impl std::fmt::Display,
    bytes: &[u8],
) -> pg::Result<[u8; 32]> {
    bytes.try_into().map_err(|_| pg::Error::inconsistent(table, column, row, "is no SHA-256"))
}
