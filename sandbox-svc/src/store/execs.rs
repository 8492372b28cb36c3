//! The journal of keyed calls: intents, outcomes, and abandoned keys.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::SandboxId};

use crate::domain::exec::{CallId, ExecState, JournalEntry, Outcome, Record};

/// Journals the intent of a call. Returns `false` if the key is journaled already.
pub async fn begin(
    db: &mut PgConnection,
    call: CallId<'_>,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO execs (sandbox_id, key, account_id, session_id, state, request_hash, created_at)
         VALUES ($1, $2, $3, $4, 'running', $5, $6)
         ON CONFLICT (sandbox_id, key) DO NOTHING",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
        &hash[..],
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Journals a key without a call as abandoned, unless the key is journaled already.
pub async fn abandon_unused(db: &mut PgConnection, call: CallId<'_>, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO execs (sandbox_id, key, account_id, session_id, state, created_at, ended_at)
         VALUES ($1, $2, $3, $4, 'abandoned', $5, $5)
         ON CONFLICT (sandbox_id, key) DO NOTHING",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes the intent of a call that the guest refused.
pub async fn withdraw(db: &mut PgConnection, call: CallId<'_>) -> Result<()> {
    sqlx::query!(
        "DELETE FROM execs
         WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the journal's entry of a key.
pub async fn find(db: &mut PgConnection, call: CallId<'_>) -> Result<Option<JournalEntry>> {
    let row = sqlx::query!(
        r#"SELECT state AS "state: ExecState", request_hash, exit_code, stdout, stderr, stdout_truncated,
                stderr_truncated, timed_out, duration_ms
         FROM execs
         WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4"#,
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
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
        JournalEntry { hash, record: Record { key: call.key.to_owned(), state: row.state, outcome } }
    }))
}

/// Writes the outcome of a call, unless the call has a final state.
pub async fn finish(
    db: &mut PgConnection,
    call: CallId<'_>,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE execs
         SET state = 'finished', exit_code = $5, stdout = $6, stderr = $7, stdout_truncated = $8,
             stderr_truncated = $9, timed_out = $10, duration_ms = $11, ended_at = $12
         WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
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
    Ok(())
}

/// Writes that a call never ran and never will, unless the call has a final state.
pub async fn abandon(db: &mut PgConnection, call: CallId<'_>, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "UPDATE execs
         SET state = 'abandoned', ended_at = $5
         WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Marks the running calls of a sandbox as in doubt. Returns their number.
pub async fn mark_in_doubt(db: &mut PgConnection, sandbox: SandboxId, now: DateTime<Utc>) -> Result<u64> {
    let done = sqlx::query!(
        "UPDATE execs SET state = 'in_doubt', ended_at = $2 WHERE sandbox_id = $1 AND state = 'running'",
        sandbox.0,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
