//! What could not be deleted: one unresolved letter a thing, however often a job meets it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{Result, ensure_affected},
    id::PurgeId,
};
use uuid::Uuid;

use crate::domain::{custodian::Custodian, external::ItemResult};

/// One thing that could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub dead_letter_id: Uuid,
    /// The job that waits for it.
    pub purge_id: Uuid,
    /// The service that could not delete it.
    pub custodian: String,
    /// What it is.
    pub kind: String,
    /// Who keeps it.
    pub provider: String,
    /// Its id there; `None` once the subject is erased.
    pub object_id: Option<String>,
    /// Why it cannot be deleted.
    pub code: String,
    /// When it was first met.
    pub created_at: DateTime<Utc>,
    /// When it was settled.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// Writes letters for `items`, with these new ids; what has an unresolved letter keeps it.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if they were not written.
pub async fn write(
    db: &mut PgConnection,
    purge_id: PurgeId,
    custodian: Custodian,
    items: &[(Uuid, ItemResult)],
    now: DateTime<Utc>,
) -> Result<()> {
    for (id, item) in items {
        sqlx::query!(
            "INSERT INTO dead_letters
                 (dead_letter_id, purge_id, custodian, kind, provider, object_id, code, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (purge_id, custodian, provider, kind, object_id) WHERE resolved_at IS NULL DO NOTHING",
            id,
            purge_id.0,
            custodian.service(),
            item.object.kind,
            item.object.provider,
            item.object.object_id,
            item.code,
            now,
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// A letter, settled or not.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if it cannot be read.
pub async fn find(db: &mut PgConnection, id: Uuid) -> Result<Option<DeadLetter>> {
    let letter = sqlx::query_as!(
        DeadLetter,
        "SELECT dead_letter_id, purge_id, custodian, kind, provider, object_id, code, created_at, resolved_at
         FROM dead_letters
         WHERE dead_letter_id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    Ok(letter)
}

/// Settles a letter.
///
/// # Errors
/// [`svc_core::data::pg::Error::Stale`] if it was settled before.
pub async fn resolve(db: &mut PgConnection, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE dead_letters SET resolved_at = $2, resolved_by = $3 WHERE dead_letter_id = $1 AND resolved_at IS NULL",
        id,
        now,
        by
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Settles what an owner of data could not delete for a job, once it could after all.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if that was not written.
pub async fn resolve_all(
    db: &mut PgConnection,
    purge_id: PurgeId,
    custodian: Custodian,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE dead_letters SET resolved_at = $3, resolved_by = 'purge-svc'
         WHERE purge_id = $1 AND custodian = $2 AND resolved_at IS NULL",
        purge_id.0,
        custodian.service(),
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Letters of a job that nobody has settled.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if they cannot be counted.
pub async fn count_unresolved(db: &mut PgConnection, purge_id: PurgeId) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM dead_letters WHERE purge_id = $1 AND resolved_at IS NULL"#,
        purge_id.0
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Every letter that nobody has settled, for metrics.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if they cannot be counted.
pub async fn count_all_unresolved(db: &mut PgConnection) -> Result<i64> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM dead_letters WHERE resolved_at IS NULL"#)
            .fetch_one(db)
            .await?;
    Ok(count)
}

/// Unresolved letters, newest first, from after `after`.
///
/// # Errors
/// [`svc_core::data::pg::Error`] if they cannot be read.
pub async fn list(db: &mut PgConnection, after: Option<Uuid>, limit: i64) -> Result<Vec<DeadLetter>> {
    let letters = sqlx::query_as!(
        DeadLetter,
        "SELECT dead_letter_id, purge_id, custodian, kind, provider, object_id, code, created_at, resolved_at
         FROM dead_letters
         WHERE resolved_at IS NULL AND ($1::uuid IS NULL OR dead_letter_id < $1)
         ORDER BY dead_letter_id DESC
         LIMIT $2",
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(letters)
}

/// Makes a job's letters forget what they were about; that there were some stays known.
///
/// # Errors
/// [`svc_core::data::pg::Error::Conflict`] if one is unresolved.
pub async fn forget(db: &mut PgConnection, purge_id: PurgeId) -> Result<()> {
    sqlx::query!("UPDATE dead_letters SET object_id = NULL WHERE purge_id = $1", purge_id.0)
        .execute(db)
        .await?;
    Ok(())
}
