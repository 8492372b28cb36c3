//! Copies of the ids of a subject's objects outside Postgres. A job makes them before anything is deleted,
//! and deletes them when it writes the receipt.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::PurgeId};

use crate::domain::{
    custodian::Custodian,
    external::{ExternalObject, ItemResult},
};

/// Copies objects; those that were copied before stay as they are.
pub async fn copy(
    db: &mut PgConnection,
    purge_id: PurgeId,
    custodian: Custodian,
    objects: &[ExternalObject],
    now: DateTime<Utc>,
) -> Result<()> {
    let kinds: Vec<_> = objects.iter().map(|object| object.kind.clone()).collect();
    let providers: Vec<_> = objects.iter().map(|object| object.provider.clone()).collect();
    let ids: Vec<_> = objects.iter().map(|object| object.object_id.clone()).collect();
    sqlx::query!(
        "INSERT INTO external_objects (purge_id, custodian, kind, provider, object_id, listed_at)
         SELECT $1, $2, kind, provider, object_id, $6
         FROM unnest($3::text[], $4::text[], $5::text[]) AS listed (kind, provider, object_id)
         ON CONFLICT (purge_id, custodian, kind, provider, object_id) DO NOTHING",
        purge_id.0,
        custodian.service(),
        &kinds,
        &providers,
        &ids,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Stores the custodian's results for objects, also for objects that its list did not name. Once an object is
/// gone, later results do not change its row.
pub async fn record_outcomes(
    db: &mut PgConnection,
    purge_id: PurgeId,
    custodian: Custodian,
    items: &[ItemResult],
    now: DateTime<Utc>,
) -> Result<()> {
    for item in items {
        sqlx::query!(
            "INSERT INTO external_objects AS known
                 (purge_id, custodian, kind, provider, object_id, listed_at, outcome, code, settled_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (purge_id, custodian, kind, provider, object_id) DO UPDATE
             SET outcome = excluded.outcome, code = excluded.code, settled_at = excluded.settled_at
             WHERE known.settled_at IS NULL",
            purge_id.0,
            custodian.service(),
            item.object.kind,
            item.object.provider,
            item.object.object_id,
            now,
            item.outcome.name(),
            item.code,
            item.outcome.is_gone().then_some(now),
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Deletes a job's copies, because they name a tenant's objects.
pub async fn delete_all(db: &mut PgConnection, purge_id: PurgeId) -> Result<()> {
    sqlx::query!("DELETE FROM external_objects WHERE purge_id = $1", purge_id.0).execute(db).await?;
    Ok(())
}
