//! Dead letters. An object has at most one unresolved letter, however often a custodian refuses to delete it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{Result, ensure_affected},
    id::PurgeId,
};
use uuid::Uuid;

use crate::domain::{custodian::Custodian, dead_letter::DeadLetter, external::ItemResult};

/// Stores letters for `items` under these new ids; an object with an unresolved letter keeps that one.
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
             ON CONFLICT (purge_id, custodian, provider, kind, object_id) WHERE resolved_at IS NULL
             DO NOTHING",
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

/// Finds a letter, resolved or not.
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

/// Resolves a letter.
///
/// # Errors
/// [`svc_core::data::pg::Error::Stale`] if it was resolved before.
pub async fn resolve(db: &mut PgConnection, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE dead_letters
         SET resolved_at = $2, resolved_by = $3
         WHERE dead_letter_id = $1 AND resolved_at IS NULL",
        id,
        now,
        by
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Resolves every letter of a job at one custodian, which has deleted all objects.
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

/// Counts the unresolved letters of a job.
pub async fn count_unresolved(db: &mut PgConnection, purge_id: PurgeId) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM dead_letters WHERE purge_id = $1 AND resolved_at IS NULL"#,
        purge_id.0
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Counts all unresolved letters.
pub async fn count_all_unresolved(db: &mut PgConnection) -> Result<i64> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM dead_letters WHERE resolved_at IS NULL"#)
            .fetch_one(db)
            .await?;
    Ok(count)
}

/// Lists unresolved letters, newest first; if `after` is given, only those older than that letter.
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

/// Clears the object ids in a job's letters; the letters stay.
///
/// # Errors
/// [`svc_core::data::pg::Error::Conflict`] if one is unresolved.
pub async fn clear_object_ids(db: &mut PgConnection, purge_id: PurgeId) -> Result<()> {
    sqlx::query!("UPDATE dead_letters SET object_id = NULL WHERE purge_id = $1", purge_id.0)
        .execute(db)
        .await?;
    Ok(())
}
