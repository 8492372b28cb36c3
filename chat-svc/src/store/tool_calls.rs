//! The journal of tool calls. Every write is part of a transaction that has locked the turn's row and checked
//! that the turn is running with its worker's epoch.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, SandboxId, SessionId, TurnId},
};

use crate::domain::{
    message::ToolCall,
    tool_call::{CallKey, JournaledCall, ToolCallState},
    tools::Rendered,
};

/// Inserts a step's calls as intended.
pub(crate) async fn insert_intents(
    db: &mut PgConnection,
    account_id: AccountId,
    session_id: SessionId,
    calls: &[JournaledCall],
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    for JournaledCall { key, call, state, .. } in calls {
        sqlx::query!(
            "INSERT INTO tool_calls (
                 turn_id, step, call, account_id, session_id, call_id, name, arguments, state, intended_at
             )
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            key.turn_id as TurnId,
            key.step,
            key.call,
            account_id as AccountId,
            session_id as SessionId,
            call.id,
            call.name,
            call.arguments,
            *state as ToolCallState,
            now,
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Lists a step's calls in order.
pub(crate) async fn list(
    db: &mut PgConnection,
    account_id: AccountId,
    turn_id: TurnId,
    step: i32,
) -> Result<Vec<JournaledCall>, pg::Error> {
    let rows = sqlx::query!(
        "SELECT turn_id, step, call, call_id, name, arguments, state, dispatches, sandbox_id, content,
                is_error
         FROM tool_calls
         WHERE turn_id = $1 AND step = $2 AND account_id = $3
         ORDER BY call",
        turn_id as TurnId,
        step,
        account_id as AccountId,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| JournaledCall {
            key: CallKey { turn_id: row.turn_id, step: row.step, call: row.call },
            call: ToolCall { id: row.call_id, name: row.name, arguments: row.arguments },
            state: row.state,
            dispatches: row.dispatches,
            sandbox_id: row.sandbox_id,
            result: row.content.map(|content| Rendered {
                content,
                is_error: row.is_error,
                in_doubt: row.state == ToolCallState::InDoubt,
            }),
        })
        .collect())
}

/// Marks the call as about to be sent to a sandbox, for the `dispatches`-th time.
pub(crate) async fn mark_dispatched(
    db: &mut PgConnection,
    key: &CallKey,
    dispatches: i32,
    sandbox_id: SandboxId,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let result = sqlx::query!(
        "UPDATE tool_calls
         SET state = $4, dispatches = $5, sandbox_id = $6, dispatched_at = $7
         WHERE turn_id = $1 AND step = $2 AND call = $3 AND state IN ('intended', 'dispatched')
           AND dispatches = $5 - 1",
        key.turn_id as TurnId,
        key.step,
        key.call,
        ToolCallState::Dispatched as ToolCallState,
        dispatches,
        sandbox_id as SandboxId,
        now,
    )
    .execute(db)
    .await?;
    ensure_affected(&result, 1)
}

/// Stores the result of a call.
pub(crate) async fn finish(
    db: &mut PgConnection,
    key: &CallKey,
    result: &Rendered,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let written = sqlx::query!(
        "UPDATE tool_calls
         SET state = $4, content = $5, is_error = $6, ended_at = $7
         WHERE turn_id = $1 AND step = $2 AND call = $3 AND state IN ('intended', 'dispatched')",
        key.turn_id as TurnId,
        key.step,
        key.call,
        ToolCallState::of(result) as ToolCallState,
        result.content,
        result.is_error,
        now,
    )
    .execute(db)
    .await?;
    ensure_affected(&written, 1)
}
