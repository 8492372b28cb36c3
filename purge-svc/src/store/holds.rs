//! Stores and reads holds, and locks the holds of a subject. Operators' requests take the lock to set or
//! release a hold; workers take it to decide whether a hold stops their job.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, Result},
    subject::{SubjectHash, SubjectKind},
};
use uuid::Uuid;

use super::sha256;
use crate::domain::hold::{Basis, Hold};

const TABLE: &str = "holds";

/// Selects holds, each as its own `Result`; `$tail` is the rest of the statement after FROM.
macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            "SELECT hold_id, subject_kind, subject_hash, basis, reference, set_by, set_at, ends_at,
                    released_at
             FROM holds " + $tail
            $(, $argument)*
        )
        .map(|row| {
            Ok(Hold {
                hold_id: row.hold_id,
                kind: row.subject_kind,
                subject_hash: SubjectHash(sha256(TABLE, "subject_hash", row.hold_id, &row.subject_hash)?),
                basis: Basis::from_name(&row.basis)
                    .ok_or_else(|| pg::Error::inconsistent(TABLE, "basis", row.hold_id, "is no basis"))?,
                reference: row.reference,
                set_by: row.set_by,
                set_at: row.set_at,
                ends_at: row.ends_at,
                released_at: row.released_at,
            })
        })
    };
}

/// Locks these subjects' holds until the transaction ends. Callers pass the account before the session, so
/// that they do not deadlock. The lock is advisory, because a hold that is being set has no row yet.
pub async fn lock_subjects(db: &mut PgConnection, subjects: &[SubjectHash]) -> Result<()> {
    for subject in subjects {
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(hashtextextended('steward.purge.hold.' || encode($1, 'hex'), 0))",
            &subject.0[..]
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Returns the latest end of the holds in force on any of these subjects at `now`; `None` if there is none.
pub async fn held_until(
    db: &mut PgConnection,
    subjects: &[SubjectHash],
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>> {
    let hashes: Vec<Vec<u8>> = subjects.iter().map(|hash| hash.0.to_vec()).collect();
    let until = sqlx::query_scalar!(
        "SELECT max(ends_at)
         FROM holds
         WHERE subject_hash = ANY ($1) AND released_at IS NULL AND ends_at > $2",
        &hashes[..],
        now
    )
    .fetch_one(db)
    .await?;
    Ok(until)
}

pub async fn insert(db: &mut PgConnection, hold: &Hold) -> Result<()> {
    sqlx::query!(
        "INSERT INTO holds (hold_id, subject_kind, subject_hash, basis, reference, set_by, set_at, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        hold.hold_id,
        hold.kind as SubjectKind,
        &hold.subject_hash.0[..],
        hold.basis.name(),
        hold.reference,
        hold.set_by,
        hold.set_at,
        hold.ends_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds a hold, also one that is released or over.
pub async fn find(db: &mut PgConnection, id: Uuid) -> Result<Option<Hold>> {
    select!("WHERE hold_id = $1", id).fetch_optional(db).await?.transpose()
}

/// Releases a hold; returns whether it was unreleased until now.
pub async fn release(db: &mut PgConnection, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE holds SET released_at = $2, released_by = $3 WHERE hold_id = $1 AND released_at IS NULL",
        id,
        now,
        by
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lists holds in force at `now`, newest first; if `after` is given, only those older than that hold.
pub async fn list(
    db: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Hold>> {
    let holds = select!(
        "WHERE released_at IS NULL AND ends_at > $3 AND ($1::uuid IS NULL OR hold_id < $1)
         ORDER BY hold_id DESC
         LIMIT $2",
        after,
        limit,
        now
    )
    .fetch_all(db)
    .await?;
    holds.into_iter().collect()
}
