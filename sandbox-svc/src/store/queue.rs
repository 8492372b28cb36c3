//! Sandboxes that wait for a worker of their engine, to be created or removed.

use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::SandboxId};

use crate::domain::sandbox::{Sandbox, State};

/// Returns the sandbox of an engine to create next: sandboxes for sessions come before sandboxes for the
/// pool, then the oldest first. Skips sandboxes with a volume that another sandbox may still mount, and
/// sandboxes for the pool unless `warm`.
pub async fn next_queued(db: &mut PgConnection, engine: &str, warm: bool) -> Result<Option<SandboxId>> {
    let id = sqlx::query_scalar!(
        "SELECT id
         FROM sandboxes s
         WHERE engine_id = $1 AND state = 'requested' AND (NOT warm OR $2)
           AND NOT EXISTS (
               SELECT FROM sandboxes other
               WHERE other.volume_id = s.volume_id AND other.state IN ('creating', 'running', 'deleting'))
         ORDER BY warm, created_at, id
         LIMIT 1",
        engine,
        warm,
    )
    .fetch_optional(db)
    .await?;
    Ok(id.map(SandboxId))
}

/// Counts the queued sandboxes of the same engine that precede a queued one.
pub async fn position(db: &mut PgConnection, sandbox: &Sandbox) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
         FROM sandboxes
         WHERE engine_id = $1 AND state = 'requested' AND (warm, created_at, id) < ($2, $3, $4)"#,
        sandbox.engine,
        sandbox.warm,
        sandbox.created_at,
        sandbox.id.0,
    )
    .fetch_one(db)
    .await?)
}

/// A sandbox without a worker, and its row's epoch, which the next claim must name.
#[derive(Debug, Clone, Copy)]
pub struct Unattended {
    pub id: SandboxId,
    pub epoch: i64,
}

/// Lists sandboxes in `state` without a lease. With `expired`, it also lists those with an expired lease.
pub async fn unattended(
    db: &mut PgConnection,
    engine: &str,
    state: State,
    expired: bool,
    limit: i64,
) -> Result<Vec<Unattended>> {
    let rows = sqlx::query!(
        "SELECT id, epoch
         FROM sandboxes
         WHERE engine_id = $1 AND state = $2 AND (lease_until IS NULL OR ($3 AND lease_until < now()))
         ORDER BY deadline_at
         LIMIT $4",
        engine,
        state as State,
        expired,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| Unattended { id: SandboxId(row.id), epoch: row.epoch }).collect())
}

/// Bytes of memory allotted to the sandboxes of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllottedMemory {
    /// Bytes for sandboxes that have, or are about to have, a container.
    pub total: i64,
    /// The part of `total` for sandboxes that are being deleted.
    pub deleting: i64,
}

/// Sums the memory allotted to the sandboxes of an engine.
pub async fn allotted_memory(db: &mut PgConnection, engine: &str) -> Result<AllottedMemory> {
    Ok(sqlx::query_as!(
        AllottedMemory,
        r#"SELECT coalesce(sum(memory_bytes), 0)::bigint AS "total!",
                coalesce(sum(memory_bytes) FILTER (WHERE state = 'deleting'), 0)::bigint AS "deleting!"
         FROM sandboxes
         WHERE engine_id = $1 AND state IN ('creating', 'running', 'deleting')"#,
        engine,
    )
    .fetch_one(db)
    .await?)
}
