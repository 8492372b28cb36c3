//! Finds the next message of a lane, and changes messages' states. Each change is one statement that checks
//! the state. The caller's transaction has locked the messages' lanes; only [`expire`] locks them itself.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::AgentId,
};
use uuid::Uuid;

use crate::domain::{
    a2a::{MessageIds, Outcome, Version},
    delivery::Problem,
    message::NextMessage,
    relay_state::State,
};

/// Finds the next message of a locked lane.
pub(crate) async fn next(db: &mut PgConnection, lane: Uuid) -> Result<Option<NextMessage>, pg::Error> {
    let row = sqlx::query!(
        r#"SELECT id, state AS "state: State", message_id, context_id, version AS "version: Version", params,
                  traceparent, attempts, arrivals, expires_at
           FROM relay_messages
           WHERE lane_id = $1 AND state IN ('queued', 'dispatched')
           ORDER BY seq
           LIMIT 1
           FOR UPDATE"#,
        lane,
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let params = serde_json::from_slice(&row.params)
            .map_err(|error| pg::Error::inconsistent("relay_messages", "params", row.id, error))?;
        Ok(NextMessage {
            id: row.id,
            state: row.state,
            ids: MessageIds { message: row.message_id, context: row.context_id },
            version: row.version,
            params,
            traceparent: row.traceparent,
            attempts: row.attempts,
            arrivals: row.arrivals,
            expires_at: row.expires_at,
        })
    })
    .transpose()
}

/// Writes `to` ([`State::Dispatched`]) as the state of a message, and counts one attempt. The attempt counts
/// as arrived until [`requeue`] subtracts it.
pub(crate) async fn dispatch(db: &mut PgConnection, id: Uuid, to: State) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = $2, attempts = attempts + 1, arrivals = arrivals + 1
         WHERE id = $1 AND state IN ('queued', 'dispatched')",
        id,
        to as State,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Writes `to` ([`State::Queued`]) as the state of a dispatched message. Unless `arrived`, subtracts the
/// attempt from those that may have arrived.
pub(crate) async fn requeue(
    db: &mut PgConnection,
    id: Uuid,
    to: State,
    problem: Problem,
    arrived: bool,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = $4, code = $2, arrivals = arrivals - $3
         WHERE id = $1 AND state = 'dispatched'",
        id,
        problem.code(),
        i32::from(!arrived),
        to as State,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Queues every dispatched message of an agent again. The caller has ended the leases of the agent's lanes
/// before.
pub(crate) async fn requeue_all(db: &mut PgConnection, target: AgentId) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages SET state = 'queued', code = $2 WHERE target_id = $1 AND state = 'dispatched'",
        target as AgentId,
        Problem::ConnectionLost.code(),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends a dispatched message with the agent's answer, in state `to`.
pub(crate) async fn deliver(
    db: &mut PgConnection,
    id: Uuid,
    to: State,
    outcome: &Outcome,
    version: Version,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = $5, code = '', answer = $2, answer_version = $3, settled_at = $4
         WHERE id = $1 AND state = 'dispatched'",
        id,
        outcome.to_stored().to_string().into_bytes(),
        version as Version,
        now,
        to as State,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Ends a message in state `from` without an answer.
pub(crate) async fn end(
    db: &mut PgConnection,
    id: Uuid,
    from: State,
    to: State,
    problem: Problem,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages SET state = $3, code = $4, settled_at = $5 WHERE id = $1 AND state = $2",
        id,
        from as State,
        to as State,
        problem.code(),
        now,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Ends every message that waits for an agent that is removed.
pub(crate) async fn drop_all(
    db: &mut PgConnection,
    target: AgentId,
    now: DateTime<Utc>,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = 'dropped', code = $2, settled_at = $3
         WHERE target_id = $1 AND state IN ('queued', 'dispatched')",
        target as AgentId,
        Problem::AgentRemoved.code(),
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends up to `limit` expired messages and returns their ids. It skips lanes that another transaction has
/// locked, until the next call, and accounts that are being erased, because the erasure deletes their
/// messages.
pub(crate) async fn expire(
    db: &mut PgConnection,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        "WITH due AS (
             SELECT id, lane_id, account_id
             FROM relay_messages
             WHERE state = 'queued' AND expires_at <= $3
               -- Messages of accounts that are being erased must not fill the batch.
               AND EXISTS (
                   SELECT
                   FROM custody
                   WHERE kind = 'account' AND subject_id = relay_messages.account_id AND state = 'live'
               )
             ORDER BY expires_at
             LIMIT $1
         ), live AS (
             SELECT subject_id
             FROM custody
             WHERE kind = 'account' AND state = 'live' AND subject_id IN (SELECT account_id FROM due)
             ORDER BY subject_id
             FOR KEY SHARE
         ), lanes AS (
             SELECT id
             FROM relay_lanes
             WHERE id IN (SELECT lane_id FROM due) AND account_id IN (SELECT subject_id FROM live)
             ORDER BY id
             FOR UPDATE SKIP LOCKED
         ), ended AS (
             UPDATE relay_messages
             SET state = 'expired', code = $2, settled_at = $3
             FROM due JOIN lanes ON lanes.id = due.lane_id
             WHERE relay_messages.id = due.id AND relay_messages.state = 'queued'
             RETURNING relay_messages.id, relay_messages.lane_id
         ), left_lanes AS (
             UPDATE relay_lanes
             SET pending = pending - counted.ended,
                 ready_at = CASE WHEN pending > counted.ended THEN ready_at END
             FROM (SELECT lane_id, count(*)::integer AS ended FROM ended GROUP BY lane_id) AS counted
             WHERE relay_lanes.id = counted.lane_id
         )
         SELECT id FROM ended",
        limit,
        Problem::Expired.code(),
        now,
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}
