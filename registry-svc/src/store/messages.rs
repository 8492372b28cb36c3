//! Stores, finds and deletes relayed messages. [`state`] changes their states.

pub(crate) mod state;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, AgentId},
};
use uuid::Uuid;

use crate::domain::{
    a2a::{MessageIds, Outcome, Version},
    message::{Message, NewMessage},
};

/// Stores a message as number `seq` of its lane.
///
/// # Errors
/// [`pg::Error::Conflict`] on `relay_messages_once` if the sender sent the agent a message with this A2A
/// message id before.
pub(crate) async fn insert(
    db: &mut PgConnection,
    new: &NewMessage,
    lane: Uuid,
    seq: i64,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO relay_messages
             (id, account_id, target_id, lane_id, seq, sender_id, message_id, context_id, request_hash,
              version, params, traceparent, state, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'queued', $13, $14)",
        new.id,
        new.account_id as AccountId,
        new.target_id as AgentId,
        lane,
        seq,
        new.sender_id,
        new.ids.message,
        new.ids.context,
        &new.request_hash[..],
        new.version as Version,
        new.params.to_string().into_bytes(),
        new.traceparent,
        new.created_at,
        new.expires_at,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Finds a tenant's message.
pub(crate) async fn find(
    db: &mut PgConnection,
    account: AccountId,
    id: Uuid,
) -> Result<Option<Message>, pg::Error> {
    let row = sqlx::query!(
        "SELECT id, account_id, target_id, sender_id, message_id, context_id, state, attempts, code, answer,
                answer_version, created_at, expires_at, settled_at
         FROM relay_messages
         WHERE id = $1 AND account_id = $2",
        id,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let unreadable = || pg::Error::inconsistent("relay_messages", "answer", row.id, "not readable");
        let answer = match (&row.answer, row.answer_version) {
            (Some(answer), Some(version)) => {
                let stored = serde_json::from_slice(answer).ok().and_then(Outcome::from_stored);
                Some((stored.ok_or_else(unreadable)?, version))
            }
            (_, _) => None,
        };
        Ok(Message {
            id: row.id,
            account_id: row.account_id,
            target_id: row.target_id,
            sender_id: row.sender_id,
            ids: MessageIds { message: row.message_id, context: row.context_id },
            state: row.state,
            attempts: row.attempts,
            code: row.code,
            answer,
            created_at: row.created_at,
            expires_at: row.expires_at,
            settled_at: row.settled_at,
        })
    })
    .transpose()
}

/// Finds the message that the sender of `new` sent to the same agent under the same A2A message id; returns
/// its id and whether it is the same request.
pub(crate) async fn find_sent(
    db: &mut PgConnection,
    new: &NewMessage,
) -> Result<Option<(Uuid, bool)>, pg::Error> {
    let row = sqlx::query!(
        r#"SELECT id, request_hash = $5 AS "same!"
           FROM relay_messages
           WHERE target_id = $2 AND sender_id = $3 AND message_id = $4 AND account_id = $1"#,
        new.account_id as AccountId,
        new.target_id as AgentId,
        new.sender_id,
        new.ids.message,
        &new.request_hash[..],
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.id, row.same)))
}

/// Counts the messages that wait for an agent, up to `limit`.
pub(crate) async fn count_waiting(
    db: &mut PgConnection,
    target: AgentId,
    limit: i64,
) -> Result<i64, pg::Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM (
               SELECT FROM relay_messages WHERE target_id = $1 AND state IN ('queued', 'dispatched') LIMIT $2
           ) AS waiting"#,
        target as AgentId,
        limit,
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Finds the lane of a message.
pub(crate) async fn lane_of(db: &mut PgConnection, id: Uuid) -> Result<Option<Uuid>, pg::Error> {
    Ok(sqlx::query_scalar!("SELECT lane_id FROM relay_messages WHERE id = $1", id).fetch_optional(db).await?)
}

/// Deletes up to `limit` messages that ended before `before`.
pub(crate) async fn delete_settled(
    db: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "DELETE FROM relay_messages
         WHERE id IN (
             SELECT id
             FROM relay_messages
             WHERE settled_at < $1
             ORDER BY settled_at
             LIMIT $2
             FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
