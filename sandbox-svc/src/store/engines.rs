//! Engines: known once a replica has spoken with them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::data::pg;

use crate::engine::EngineInfo;

/// Notes that an engine answered a replica that keeps its run directories in `run_dir`. Answers `false`, and notes
/// nothing, if sandboxes there may have theirs elsewhere: who looks for them in the wrong place revokes nothing.
///
/// # Errors
/// [`pg::Error`].
pub async fn see(
    db: &mut PgConnection,
    engine: &EngineInfo,
    run_dir: &str,
    now: DateTime<Utc>,
) -> Result<bool, pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO engines (id, memory_bytes, run_dir, seen_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE
            SET memory_bytes = excluded.memory_bytes, run_dir = excluded.run_dir, seen_at = excluded.seen_at
          WHERE coalesce(engines.run_dir, excluded.run_dir) = excluded.run_dir
             OR NOT EXISTS (SELECT FROM sandboxes
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

/// Locks the engine's row until the transaction ends, and counts what is being created on it: whoever wants to
/// begin another create sees every earlier one.
///
/// # Errors
/// [`pg::Error`].
pub async fn lock_and_count_creating(db: &mut PgConnection, engine: &str) -> Result<i64, pg::Error> {
    sqlx::query!("SELECT id FROM engines WHERE id = $1 FOR NO KEY UPDATE", engine)
        .fetch_optional(&mut *db)
        .await?;
    // A statement of its own: it must see what was committed while the lock was waited for.
    let creating = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM sandboxes WHERE engine_id = $1 AND state = 'creating'"#,
        engine,
    )
    .fetch_one(db)
    .await?;
    Ok(creating)
}
