//! Rows of workspaces. A row is `live` before its volume is created, and `gone` after its absence was
//! confirmed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::data::pg::{Result, ensure_affected};
use uuid::Uuid;

use crate::domain::{VolumeId, sandbox::Owner};

/// Name of the unique index that allows a session one live workspace.
pub const ONE_VOLUME_A_SESSION: &str = "volumes_one_a_session";

/// Writes a new workspace; one for the pool has no owner.
pub async fn insert(
    db: &mut PgConnection,
    id: VolumeId,
    engine: &str,
    owner: Option<Owner>,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO volumes (id, account_id, session_id, engine_id, state, created_at)
         VALUES ($1, $2, $3, $4, 'live', $5)",
        id.0,
        owner.map(|owner| owner.account.0),
        owner.map(|owner| owner.session.0),
        engine,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Ends the retention of the session's workspace, because a new sandbox is to mount it. Returns the workspace
/// and its engine.
pub async fn keep_of_session(db: &mut PgConnection, owner: Owner) -> Result<Option<(VolumeId, String)>> {
    let row = sqlx::query!(
        "UPDATE volumes
         SET retain_until = NULL
         WHERE account_id = $1 AND session_id = $2 AND state = 'live'
         RETURNING id, engine_id",
        owner.account.0,
        owner.session.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (VolumeId(row.id), row.engine_id)))
}

/// Assigns a workspace of the pool to the session that claimed its sandbox.
///
/// # Errors
/// `pg::Error::Stale` if it has an owner.
pub async fn assign(db: &mut PgConnection, id: VolumeId, owner: Owner) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE volumes
         SET account_id = $2, session_id = $3
         WHERE id = $1 AND session_id IS NULL AND state = 'live'",
        id.0,
        owner.account.0,
        owner.session.0,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Starts the retention of a workspace after its sandbox ended, unless another sandbox is to mount it.
pub async fn release(db: &mut PgConnection, id: VolumeId, retain_until: DateTime<Utc>) -> Result<()> {
    // Locks the row in a separate statement: a request for the session's next sandbox may hold the row. The
    // next statement begins after that request ended, so it sees the sandbox that the request inserted.
    sqlx::query!("SELECT id FROM volumes WHERE id = $1 FOR NO KEY UPDATE", id.0)
        .fetch_optional(&mut *db)
        .await?;
    sqlx::query!(
        "UPDATE volumes
         SET retain_until = $2
         WHERE id = $1 AND state = 'live'
           AND NOT EXISTS (
               SELECT FROM sandboxes
               WHERE volume_id = $1 AND state IN ('requested', 'creating', 'running', 'deleting'))",
        id.0,
        retain_until,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Commits workspaces of an engine to removal after their retention. Returns at most `limit` workspaces to
/// remove: these, and those that were committed earlier. A workspace that a sandbox is to mount has no
/// retention, so it is not among them.
pub async fn begin_removal(
    db: &mut PgConnection,
    engine: &str,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<VolumeId>> {
    let ids = sqlx::query_scalar!(
        "UPDATE volumes
         SET state = 'removing'
         WHERE id IN (
             SELECT id
             FROM volumes
             WHERE engine_id = $1 AND (state = 'removing' OR (state = 'live' AND retain_until <= $2))
             ORDER BY retain_until
             LIMIT $3
             FOR NO KEY UPDATE SKIP LOCKED)
         RETURNING id",
        engine,
        now,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(VolumeId).collect())
}

/// Writes that a workspace's absence is confirmed. Returns `false` if it was written before.
pub async fn confirm_removal(db: &mut PgConnection, id: VolumeId, now: DateTime<Utc>) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE volumes SET state = 'gone', ended_at = $2 WHERE id = $1 AND state = 'removing'",
        id.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Returns which of these workspaces have a row, and whether the row is `gone`.
pub async fn are_gone(db: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<VolumeId, bool>> {
    let rows = sqlx::query!(r#"SELECT id, state = 'gone' AS "gone!" FROM volumes WHERE id = ANY($1)"#, ids)
        .fetch_all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (VolumeId(row.id), row.gone)).collect())
}

/// Writes a row for a volume without one. It is retained until `retain_until`, as after the end of a sandbox.
pub async fn adopt(
    db: &mut PgConnection,
    id: VolumeId,
    engine: &str,
    now: DateTime<Utc>,
    retain_until: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO volumes (id, engine_id, state, created_at, retain_until)
         VALUES ($1, $2, 'live', $3, $4)
         ON CONFLICT (id) DO NOTHING",
        id.0,
        engine,
        now,
        retain_until,
    )
    .execute(db)
    .await?;
    Ok(())
}
