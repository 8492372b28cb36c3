//! The journal of keyed calls: intents, outcomes, and abandoned keys.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::SandboxId};

use crate::domain::exec::{CallId, ExecState, JournalEntry, Outcome, Record};

/// Journals a call, unless its key is journaled already. With `hash`, the hash of its request, the call is
/// journaled as running; without it, as abandoned. Returns whether this call of the function wrote the row.
pub async fn insert(
    db: &mut PgConnection,
    call: CallId<'_>,
    hash: Option<&[u8; 32]>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let (state, ended_at) = match hash {
        Some(_) => (ExecState::Running, None),
        None => (ExecState::Abandoned, Some(now)),
    };
    let done = sqlx::query!(
        "INSERT INTO execs (
             sandbox_id, key, account_id, session_id, state, request_hash, created_at, ended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (sandbox_id, key) DO NOTHING",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
        state as ExecState,
        hash.map(<[u8; 32]>::as_slice),
        now,
        ended_at,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
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

/// Ends a running call. With an `outcome` it is finished; without one it is abandoned: it never ran and never
/// will. Changes nothing if the call has a final state.
pub async fn settle(
    db: &mut PgConnection,
    call: CallId<'_>,
    outcome: Option<&Outcome>,
    now: DateTime<Utc>,
) -> Result<()> {
    let state = if outcome.is_some() { ExecState::Finished } else { ExecState::Abandoned };
    sqlx::query!(
        "UPDATE execs
         SET state = $5, exit_code = $6, stdout = $7, stderr = $8, stdout_truncated = $9,
             stderr_truncated = $10, timed_out = $11, duration_ms = $12, ended_at = $13
         WHERE sandbox_id = $1 AND key = $2 AND account_id = $3 AND session_id = $4 AND state = 'running'",
        call.sandbox.0,
        call.key,
        call.owner.account.0,
        call.owner.session.0,
        state as ExecState,
        outcome.map(|outcome| outcome.exit_code),
        outcome.map(|outcome| outcome.stdout.as_slice()),
        outcome.map(|outcome| outcome.stderr.as_slice()),
        outcome.is_some_and(|outcome| outcome.stdout_truncated),
        outcome.is_some_and(|outcome| outcome.stderr_truncated),
        outcome.is_some_and(|outcome| outcome.timed_out),
        outcome.map(|outcome| i64::try_from(outcome.duration.as_millis()).unwrap_or(i64::MAX)),
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
