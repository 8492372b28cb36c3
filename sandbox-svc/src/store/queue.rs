//! Sandboxes that wait for their engine: to be made, or to be removed.

use sqlx::PgConnection;
use svc_core::{data::pg, id::SandboxId};

use crate::domain::sandbox::{Sandbox, State};

/// The sandbox of an engine that is to be made next: users before the pool, then the oldest whose volume is free.
///
/// # Errors
/// [`pg::Error`].
pub async fn next_queued(
    db: &mut PgConnection,
    engine: &str,
    warm: bool,
) -> Result<Option<SandboxId>, pg::Error> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM sandboxes s
          WHERE engine_id = $1 AND state = 'requested' AND (NOT warm OR $2)
            AND NOT EXISTS (SELECT FROM sandboxes other
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

/// How many sandboxes of its engine are made before a queued one.
///
/// # Errors
/// [`pg::Error`].
pub async fn position(db: &mut PgConnection, sandbox: &Sandbox) -> Result<i64, pg::Error> {
    let ahead = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM sandboxes
            WHERE engine_id = $1 AND state = 'requested' AND (warm, created_at, id) < ($2, $3, $4)"#,
        sandbox.engine,
        sandbox.warm,
        sandbox.created_at,
        sandbox.id.0,
    )
    .fetch_one(db)
    .await?;
    Ok(ahead)
}

/// Sandboxes in `state` that nobody works on: ids and epochs. Those whose lease ran out only if `expired`.
///
/// # Errors
/// [`pg::Error`].
pub async fn unattended(
    db: &mut PgConnection,
    engine: &str,
    state: State,
    expired: bool,
    limit: i64,
) -> Result<Vec<(SandboxId, i64)>, pg::Error> {
    let rows = sqlx::query!(
        "SELECT id, epoch FROM sandboxes
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
    Ok(rows.into_iter().map(|row| (SandboxId(row.id), row.epoch)).collect())
}

/// Memory promised to sandboxes of an engine, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promised {
    /// To those that have, or are about to have, a container.
    pub all: i64,
    /// Of that, to those that go.
    pub going: i64,
}

/// What is promised on an engine.
///
/// # Errors
/// [`pg::Error`].
pub async fn promised_memory(db: &mut PgConnection, engine: &str) -> Result<Promised, pg::Error> {
    let promised = sqlx::query_as!(
        Promised,
        r#"SELECT coalesce(sum(memory_bytes), 0)::bigint AS "all!",
                  coalesce(sum(memory_bytes) FILTER (WHERE state = 'deleting'), 0)::bigint AS "going!"
             FROM sandboxes
            WHERE engine_id = $1 AND state IN ('creating', 'running', 'deleting')"#,
        engine,
    )
    .fetch_one(db)
    .await?;
    Ok(promised)
}
