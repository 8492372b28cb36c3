//! The audit log: one row for each irreversible act, written in the transaction that commits the act.
//!
//! The primary key is (act, subject, generation), so a transaction that commits the same act a second time
//! fails. The role under which a service runs can only insert and read rows. A row names its subject by a
//! hash, and the actor by an id or a service's name.

use chrono::{DateTime, Utc};

use crate::data::pg::{self, Tx};
pub use crate::subject::SubjectHash;

#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// Name of the act, for example `session.erased`.
    pub act: &'static str,
    pub subject: SubjectHash,
    /// Generation of the record that the act changed, for example the epoch of a purge.
    pub generation: i64,
    /// Actor: id of a principal, or name of a service or task.
    pub principal_id: &'a str,
    pub at: DateTime<Utc>,
}

/// Writes the row of an act.
///
/// # Errors
/// [`pg::Error::Conflict`] on `audit_log_pkey` if the act was recorded before. The caller must then not
/// commit.
pub async fn record(tx: &mut Tx, act: &Act<'_>) -> Result<(), pg::Error> {
    sqlx::query(
        "INSERT INTO audit_log (act, subject_hash, generation, principal_id, at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(act.act)
    .bind(&act.subject.0[..])
    .bind(act.generation)
    .bind(act.principal_id)
    .bind(act.at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
