//! Engines: known once a replica has spoken with them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::pg;

use crate::engine::EngineInfo;

/// Notes that an engine answered.
///
/// # Errors
/// [`pg::Error`].
pub async fn see(db: &mut PgConnection, engine: &EngineInfo, now: DateTime<Utc>) -> Result<(), pg::Error> {
    sqlx::query!(
        "INSERT INTO engines (id, memory_bytes, seen_at) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET memory_bytes = excluded.memory_bytes, seen_at = excluded.seen_at",
        engine.id,
        engine.memory_bytes,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
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
