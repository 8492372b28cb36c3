//! The rows that an erasure ends, deletes and counts: the rows of a session, or all rows of an account. Rows
//! of the pool have no owner and are never included.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::SandboxId, subject::Subject};
use uuid::Uuid;

use crate::domain::VolumeId;

svc_core::custody_tables! {
    /// Tables that an erasure deletes from, in this order.
    pub static TABLES;
    "sandbox.execs" => execs;
    "sandbox.sandboxes" => sandboxes if "state IN ('gone', 'failed')";
    "sandbox.volumes" => volumes if "state = 'gone'";
    "sandbox.idempotency_keys" => idempotency_keys;
}

/// The kind of journaled calls, which an erasure deletes first.
pub const EXECS: &str = "sandbox.execs";

fn ids(subject: Subject) -> (Uuid, Option<Uuid>) {
    (subject.account().0, subject.session().map(|session| session.0))
}

/// Lists the subject's sandboxes that are not final, oldest first, which is the order to lock them in.
pub async fn list_unfinished(db: &mut PgConnection, subject: Subject) -> Result<Vec<SandboxId>> {
    let (account, session) = ids(subject);
    let ids = sqlx::query_scalar!(
        "SELECT id
         FROM sandboxes
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state NOT IN ('gone', 'failed')
         ORDER BY id",
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SandboxId).collect())
}

/// Lists the run directories of all the subject's sandboxes, final ones included: engine and name.
pub async fn list_run_dirs(db: &mut PgConnection, subject: Subject) -> Result<Vec<(String, String)>> {
    let (account, session) = ids(subject);
    let rows = sqlx::query!(
        r#"SELECT engine_id, container_run_dir AS "run_dir!"
         FROM sandboxes
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND container_run_dir IS NOT NULL
         ORDER BY id"#,
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.engine_id, row.run_dir)).collect())
}

/// Lists the subject's workspaces that may still exist: id and engine.
pub async fn list_volumes(db: &mut PgConnection, subject: Subject) -> Result<Vec<(VolumeId, String)>> {
    let (account, session) = ids(subject);
    let rows = sqlx::query!(
        "SELECT id, engine_id
         FROM volumes
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state <> 'gone'
         ORDER BY id",
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (VolumeId(row.id), row.engine_id)).collect())
}

/// Commits the subject's workspaces to removal, except those of a sandbox that is not final.
pub async fn begin_removal(db: &mut PgConnection, subject: Subject) -> Result<()> {
    let (account, session) = ids(subject);
    sqlx::query!(
        "UPDATE volumes
         SET state = 'removing'
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state = 'live'
           AND NOT EXISTS (
               SELECT FROM sandboxes s
               WHERE s.volume_id = volumes.id AND s.state NOT IN ('gone', 'failed'))",
        account,
        session,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes that the absence of the subject's workspaces is confirmed. Returns those that this call changed.
pub async fn confirm_removal(
    db: &mut PgConnection,
    subject: Subject,
    now: DateTime<Utc>,
) -> Result<Vec<VolumeId>> {
    let (account, session) = ids(subject);
    let ids = sqlx::query_scalar!(
        "UPDATE volumes
         SET state = 'gone', ended_at = $3
         WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state = 'removing'
         RETURNING id",
        account,
        session,
        now,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(VolumeId).collect())
}

/// Lists live sandboxes of subjects that are erased or being erased. There must be none.
pub async fn list_live_of_erasing(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT s.id AS "id: Uuid"
         FROM sandboxes s
         JOIN custody c ON (c.kind = 'session' AND c.subject_id = s.session_id)
                        OR (c.kind = 'account' AND c.subject_id = s.account_id)
         WHERE c.state IN ('erasing', 'erased') AND s.state IN ('requested', 'creating', 'running')
         LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?)
}

/// Lists workspaces with a committed removal that a sandbox still mounts. There must be none.
pub async fn list_removed_in_use(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT v.id AS "id: Uuid"
         FROM volumes v
         JOIN sandboxes s ON s.volume_id = v.id
         WHERE v.state <> 'live' AND s.state NOT IN ('gone', 'failed')
         LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?)
}
