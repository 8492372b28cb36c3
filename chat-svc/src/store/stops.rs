//! Stops of calls that may still run although their turn has ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, SandboxId, SessionId, TurnId},
};

use crate::domain::tool_call::{CallKey, DueStop, StopOutcome, ToolCallState};

/// Marks those calls of the turn as due to be stopped that may still run: they were sent, and have no result
/// or are in doubt.
pub(crate) async fn mark_due(
    db: &mut PgConnection,
    turn_id: TurnId,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE tool_calls
         SET stop_due_at = $2
         WHERE turn_id = $1 AND state IN ($3, $4) AND sandbox_id IS NOT NULL",
        turn_id as TurnId,
        now,
        ToolCallState::Dispatched as ToolCallState,
        ToolCallState::InDoubt as ToolCallState,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists at most `limit` due calls, fewest attempts first. Calls of a frozen subject stay due until the
/// subject is thawed or erased.
pub(crate) async fn list_due(db: &mut PgConnection, limit: i64) -> Result<Vec<DueStop>, pg::Error> {
    let rows = sqlx::query!(
        r#"SELECT c.turn_id AS "turn_id: TurnId", c.step, c.call, c.account_id AS "account_id: AccountId",
                  c.session_id AS "session_id: SessionId", c.sandbox_id AS "sandbox_id!: SandboxId",
                  c.dispatches, t.traceparent
           FROM tool_calls c
           JOIN turns t ON t.id = c.turn_id
           WHERE c.stop_due_at <= now()
             AND NOT EXISTS (
                 SELECT
                 FROM custody
                 WHERE state <> 'live'
                   AND ((kind = 'session' AND subject_id = c.session_id)
                        OR (kind = 'account' AND subject_id = c.account_id))
             )
           ORDER BY c.stop_tries, c.stop_due_at
           LIMIT $1"#,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DueStop {
            key: CallKey { turn_id: row.turn_id, step: row.step, call: row.call },
            account_id: row.account_id,
            session_id: row.session_id,
            sandbox_id: row.sandbox_id,
            dispatches: row.dispatches,
            traceparent: row.traceparent,
        })
        .collect())
}

/// Claims a due stop for the time `held`. Unless the claimer records an outcome in that time, another process
/// may claim the stop. Returns the attempt number, or `None` if another process claimed the row or has it
/// locked.
pub(crate) async fn claim(
    db: &mut PgConnection,
    key: &CallKey,
    held: Duration,
) -> Result<Option<i32>, pg::Error> {
    let tries = sqlx::query_scalar!(
        "UPDATE tool_calls
         SET stop_tries = stop_tries + 1, stop_due_at = now() + make_interval(secs => $4)
         WHERE (turn_id, step, call) = (
             SELECT turn_id, step, call
             FROM tool_calls
             WHERE turn_id = $1 AND step = $2 AND call = $3 AND stop_due_at <= now()
             FOR NO KEY UPDATE SKIP LOCKED
         )
         RETURNING stop_tries",
        key.turn_id as TurnId,
        key.step,
        key.call,
        held.as_secs_f64(),
    )
    .fetch_optional(db)
    .await?;
    Ok(tries)
}

/// Records the result of attempt `tries`: an outcome, or the pause before the next attempt. Fails if another
/// process has claimed the stop since.
pub(crate) async fn record(
    db: &mut PgConnection,
    key: &CallKey,
    tries: i32,
    outcome: Result<StopOutcome, Duration>,
) -> Result<(), pg::Error> {
    let result = sqlx::query!(
        "UPDATE tool_calls
         SET stop = $5, stop_due_at = now() + make_interval(secs => $6)
         WHERE turn_id = $1 AND step = $2 AND call = $3 AND stop_tries = $4 AND stop IS NULL",
        key.turn_id as TurnId,
        key.step,
        key.call,
        tries,
        outcome.ok() as Option<StopOutcome>,
        outcome.err().map(|pause| pause.as_secs_f64()),
    )
    .execute(db)
    .await?;
    ensure_affected(&result, 1)
}
