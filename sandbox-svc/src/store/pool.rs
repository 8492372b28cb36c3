//! Warm sandboxes. Only the statement of [`claim`] assigns one to a session.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::SandboxId};

use crate::domain::{
    VolumeId,
    pool::PoolState,
    sandbox::Owner,
    shape::{Network, Shape},
};

/// Requirements on a sandbox to claim.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub engine: &'a str,
    pub shape: &'a Shape,
    /// The sandbox must not retire before this time.
    pub lives_until: DateTime<Utc>,
}

/// Assigns the oldest pooled sandbox that meets `wanted` to `owner`, with `deadline_at` as its next deadline.
/// Returns its id and volume, or `None` if there is none.
///
/// # Errors
/// `pg::Error::Conflict` on [`ONE_LIVE_A_SESSION`](super::sandboxes::ONE_LIVE_A_SESSION) if the session got
/// another sandbox meanwhile.
pub async fn claim(
    db: &mut PgConnection,
    wanted: Wanted<'_>,
    owner: Owner,
    now: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
) -> Result<Option<(SandboxId, VolumeId)>> {
    let row = sqlx::query!(
        "WITH free AS (
             SELECT id
             FROM sandboxes
             WHERE engine_id = $1 AND state = 'running' AND pool_state = 'available' AND deadline_at > $2
               AND image = $3 AND runtime = $4 AND cpu_millis = $5 AND memory_bytes = $6 AND network = $7
             ORDER BY created_at, id
             LIMIT 1
             FOR NO KEY UPDATE SKIP LOCKED)
         UPDATE sandboxes
         SET account_id = $8, session_id = $9, pool_slot = NULL, pool_state = NULL, retire_at = NULL,
             generation = generation + 1, last_active_at = $10, deadline_at = $11
         FROM free
         WHERE sandboxes.id = free.id
         RETURNING sandboxes.id, sandboxes.volume_id",
        wanted.engine,
        wanted.lives_until,
        wanted.shape.image,
        wanted.shape.runtime,
        wanted.shape.cpu_millis,
        wanted.shape.memory_bytes,
        wanted.shape.network as Network,
        owner.account.0,
        owner.session.0,
        now,
        deadline_at,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (SandboxId(row.id), VolumeId(row.volume_id))))
}

/// Returns the oldest available sandbox of the pool that no transaction has locked.
pub async fn oldest(db: &mut PgConnection, engine: &str) -> Result<Option<SandboxId>> {
    let id = sqlx::query_scalar!(
        "SELECT id
         FROM sandboxes
         WHERE engine_id = $1 AND state = 'running' AND pool_state = 'available'
         ORDER BY created_at, id
         LIMIT 1
         FOR NO KEY UPDATE SKIP LOCKED",
        engine,
    )
    .fetch_optional(db)
    .await?;
    Ok(id.map(SandboxId))
}

/// Returns the sandbox in a slot of the pool.
pub async fn in_slot(
    db: &mut PgConnection,
    engine: &str,
    number: i32,
    state: PoolState,
) -> Result<Option<SandboxId>> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM sandboxes WHERE engine_id = $1 AND pool_slot = $2 AND pool_state = $3",
        engine,
        number,
        state as PoolState,
    )
    .fetch_optional(db)
    .await?;
    Ok(id.map(SandboxId))
}

/// Counts the sandboxes that were requested for the pool within the last `window` and failed to start.
pub async fn recent_failures(
    db: &mut PgConnection,
    engine: &str,
    now: DateTime<Utc>,
    window: Duration,
) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
         FROM sandboxes
         WHERE engine_id = $1 AND warm AND state IN ('deleting', 'failed') AND running_at IS NULL
           AND cause NOT IN ('retired', 'deleted', 'erased')
           AND created_at > $2::timestamptz - make_interval(secs => $3)"#,
        engine,
        now,
        window.as_secs_f64(),
    )
    .fetch_one(db)
    .await?)
}
