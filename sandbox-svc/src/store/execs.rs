//! The journal of keyed calls.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg, id::SandboxId};

use crate::domain::{
    exec::{ExecState, Outcome, Record},
    sandbox::Owner,
};

/// A journaled call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of the call; none if it was written off before anybody saw it.
    pub hash: Option<[u8; 32]>,
    /// What is known of it.
    pub record: Record,
}

/// Journals the intent of a call. Answers `false` if its key is known.
///
/// # Errors
/// [`pg::Error`].
pub async fn begin(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<bool, pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO execs (sandbox_id, key, account_id, session_id, state, request_hash, created_at)
         VALUES ($1, $2, $3, $4, 'running', $5, $6)
         ON CONFLICT (sandbox_id, key) DO NOTHING",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
        &hash[..],
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes off a key that nobody used. Answers `false` if it is known.
///
/// # Errors
/// [`pg::Error`].
pub async fn write_off(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
    now: DateTime<Utc>,
) -> Result<bool, pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO execs (sandbox_id, key, account_id, session_id, state, created_at, ended_at)
         VALUES ($1, $2, $3, $4, 'abandoned', $5, $5)
         ON CONFLICT (sandbox_id, key) DO NOTHING",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the intent of a call that did not happen.
///
/// # Errors
/// [`pg::Error`].
pub async fn forget(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
) -> Result<(), pg::Error> {
    sqlx::query!(
        "DELETE FROM execs
          WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What is journaled of a key.
///
/// # Errors
/// [`pg::Error`].
pub async fn find(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
) -> Result<Option<Entry>, pg::Error> {
    let row = sqlx::query!(
        "SELECT state AS \"state: ExecState\", request_hash, exit_code, stdout, stderr, stdout_truncated,
                stderr_truncated, timed_out, duration_ms
           FROM execs
          WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let ended = row.exit_code.zip(row.stdout).zip(row.stderr.zip(row.duration_ms));
        let outcome = ended.map(|((exit_code, stdout), (stderr, duration_ms))| Outcome {
            exit_code,
            stdout,
            stderr,
            stdout_truncated: row.stdout_truncated,
            stderr_truncated: row.stderr_truncated,
            timed_out: row.timed_out,
            duration: Duration::from_millis(duration_ms.unsigned_abs()),
        });
        let hash = row.request_hash.and_then(|hash| hash.try_into().ok());
        Entry { hash, record: Record { key: key.to_owned(), state: row.state, outcome } }
    }))
}

/// Writes how a running call ended. Answers `false` if it is not running any more.
///
/// # Errors
/// [`pg::Error`].
pub async fn finish(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<bool, pg::Error> {
    let done = sqlx::query!(
        "UPDATE execs
            SET state = 'finished', exit_code = $5, stdout = $6, stderr = $7, stdout_truncated = $8,
                stderr_truncated = $9, timed_out = $10, duration_ms = $11, ended_at = $12
          WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
        outcome.exit_code,
        outcome.stdout,
        outcome.stderr,
        outcome.stdout_truncated,
        outcome.stderr_truncated,
        outcome.timed_out,
        i64::try_from(outcome.duration.as_millis()).unwrap_or(i64::MAX),
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a running call never ran and never will: its guest has written its key off.
///
/// # Errors
/// [`pg::Error`].
pub async fn abandon(
    db: &mut PgConnection,
    owner: Owner,
    sandbox: SandboxId,
    key: &str,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE execs SET state = 'abandoned', ended_at = $5
          WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        sandbox.0,
        key,
        owner.account.0,
        owner.session.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that nobody can tell any more what became of a sandbox's running calls. Answers how many there were.
///
/// # Errors
/// [`pg::Error`].
pub async fn doubt_all(
    db: &mut PgConnection,
    sandbox: SandboxId,
    now: DateTime<Utc>,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE execs SET state = 'in_doubt', ended_at = $2 WHERE sandbox_id = $1 AND state = 'running'",
        sandbox.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
