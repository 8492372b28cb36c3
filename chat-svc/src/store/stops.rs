//! Stops: calls that may still run though their turn has ended, and what came of telling their sandboxes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, Subject, ensure_affected},
    id::{AccountId, SandboxId, SessionId, TurnId},
};

use crate::domain::tool_call::{CallKey, CallStop, ToolCallState};

/// A call to be stopped.
#[derive(Debug, Clone)]
pub struct DueStop {
    /// The call.
    pub key: CallKey,
    /// Whose it is.
    pub account_id: AccountId,
    /// The session of its turn.
    pub session_id: SessionId,
    /// Where it was sent last.
    pub sandbox_id: SandboxId,
    /// Times it was sent.
    pub dispatches: i32,
    /// The turn's trace.
    pub traceparent: Option<String>,
}

impl DueStop {
    /// Whose data a note about it is.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        Subject::Session { account: self.account_id, session: self.session_id }
    }
}

/// Wants every call of a turn stopped that may be running: what was sent and has no answer, nobody's or the model's.
pub async fn want(db: &mut PgConnection, turn_id: TurnId, now: DateTime<Utc>) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE tool_calls SET stop_due_at = $2
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

/// Up to `limit` calls that are due, those first that were tried least. What an erasure has frozen waits until it is
/// thawed, or goes.
pub async fn list_due(db: &mut PgConnection, limit: i64) -> Result<Vec<DueStop>, pg::Error> {
    let rows = sqlx::query!(
        r#"SELECT c.turn_id AS "turn_id: TurnId", c.step, c.call, c.account_id AS "account_id: AccountId",
                  c.session_id AS "session_id: SessionId", c.sandbox_id AS "sandbox_id!: SandboxId", c.dispatches,
                  t.traceparent
             FROM tool_calls c JOIN turns t ON t.id = c.turn_id
            WHERE c.stop_due_at <= now()
              AND NOT EXISTS (SELECT FROM custody
                               WHERE state <> 'live'
                                 AND ((kind = 'session' AND subject_id = c.session_id)
                                   OR (kind = 'account' AND subject_id = c.account_id)))
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

/// Takes a call that is due, for `held`: whoever took it tells what came of it within that, or another takes it. Answers
/// how often it was taken; `None`: somebody else was first, or is about to be.
pub async fn take(db: &mut PgConnection, key: &CallKey, held: Duration) -> Result<Option<i32>, pg::Error> {
    let tries = sqlx::query_scalar!(
        "UPDATE tool_calls SET stop_tries = stop_tries + 1, stop_due_at = now() + make_interval(secs => $4)
          WHERE (turn_id, step, call) = (SELECT turn_id, step, call FROM tool_calls
                                          WHERE turn_id = $1 AND step = $2 AND call = $3 AND stop_due_at <= now()
                                            FOR NO KEY UPDATE SKIP LOCKED)
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

/// Notes what came of the `tries`-th time: an end, or a pause before the next. Only whoever took it last does.
pub async fn settle(
    db: &mut PgConnection,
    key: &CallKey,
    tries: i32,
    outcome: Result<CallStop, Duration>,
) -> Result<(), pg::Error> {
    let result = sqlx::query!(
        "UPDATE tool_calls SET stop = $5, stop_due_at = now() + make_interval(secs => $6)
          WHERE turn_id = $1 AND step = $2 AND call = $3 AND stop_tries = $4 AND stop IS NULL",
        key.turn_id as TurnId,
        key.step,
        key.call,
        tries,
        outcome.ok() as Option<CallStop>,
        outcome.err().map(|pause| pause.as_secs_f64()),
    )
    .execute(db)
    .await?;
    ensure_affected(&result, 1)
}
