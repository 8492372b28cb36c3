//! One row for each irreversible act, written with the transition that commits it.
//!
//! The key is (act, subject, generation): an act that is about to be committed twice fails its transaction. The
//! run role can insert and read, nothing else. Rows name subjects by hash and actors by id.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    data::pg::{self, Tx},
    wire::principal::Principal,
};

/// SHA-256 of what an act was done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectHash([u8; 32]);

impl SubjectHash {
    /// Hash of the thing of this `kind` ("session", "sandbox", "volume") and id. Ids are UUIDs with 74 random
    /// bits, so that a hash cannot be turned back by trying.
    #[must_use]
    pub fn of(kind: &str, id: Uuid) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.as_bytes());
        hash.update([0]);
        hash.update(id.as_bytes());
        Self(hash.finalize().into())
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An irreversible act.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// What was done, as `session.tombstoned`.
    pub act: &'static str,
    /// To what.
    pub subject: SubjectHash,
    /// Generation of the record that the act made.
    pub generation: i64,
    /// Who did it: id of a principal, or name of a service or task.
    pub principal_id: &'a str,
    /// When.
    pub at: DateTime<Utc>,
}

/// How a principal is named in the log.
#[must_use]
pub fn principal_id(principal: &Principal) -> &str {
    &principal.subject_id
}

/// Writes the row of an act.
///
/// # Errors
/// [`pg::Error::Conflict`] on `audit_log_pkey` if this act was done before: the transaction must not commit.
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
