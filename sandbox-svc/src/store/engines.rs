//! Engines that a replica has reached.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::data::pg::Result;

use crate::engine::EngineInfo;

/// Records that a replica with its run directories under `run_dir` reached the engine. Returns `false` and
/// writes nothing if the engine's row names another directory and the engine has sandboxes that are creating,
/// running or deleting.
pub async fn register(
    db: &mut PgConnection,
    engine: &EngineInfo,
    run_dir: &str,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO engines (id, memory_bytes, run_dir, seen_at)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE
         SET memory_bytes = excluded.memory_bytes, run_dir = excluded.run_dir, seen_at = excluded.seen_at
         WHERE coalesce(engines.run_dir, excluded.run_dir) = excluded.run_dir
            OR NOT EXISTS (
                SELECT FROM sandboxes
                WHERE engine_id = engines.id AND state IN ('creating', 'running', 'deleting'))",
        engine.id,
        engine.memory_bytes,
        run_dir,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks the engine's row until the transaction ends, and counts the sandboxes in creation on it. Because of
/// the lock, workers take queued sandboxes one after another, and each counts those that the workers before
/// it took.
pub async fn lock_and_count_creating(db: &mut PgConnection, engine: &str) -> Result<i64> {
    sqlx::query!("SELECT id FROM engines WHERE id = $1 FOR NO KEY UPDATE", engine)
        .fetch_optional(&mut *db)
        .await?;
    // Counts in a second statement, because its snapshot must include what was committed while the lock was
    // awaited.
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM sandboxes WHERE engine_id = $1 AND state = 'creating'"#,
        engine,
    )
    .fetch_one(db)
    .await?)
}
