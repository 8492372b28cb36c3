//! One row for each irreversible act, written with the transition that commits it.
//!
//! The key is (act, subject, generation): committing an act a second time fails its transaction. The run role
//! can insert and read, nothing else. Rows name subjects by hash and actors by id.

use chrono::{DateTime, Utc};

use crate::data::pg::{self, Tx};
pub use crate::subject::SubjectHash;

#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// Name of the act, as `session.tombstoned`.
    pub act: &'static str,
    pub subject: SubjectHash,
    /// Generation of the record that the act made.
    pub generation: i64,
    /// Actor: id of a principal, or name of a service or task.
    pub principal_id: &'a str,
    pub at: DateTime<Utc>,
}

/// Writes the row of an act.
///
/// # Errors
/// [`pg::Error::Conflict`] on `audit_log_pkey` if the act was recorded before: the transaction must not
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
