//! Messages in the relay.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, AgentId},
};
use uuid::Uuid;

use crate::domain::{
    a2a::{MessageIds, Outcome, Version},
    delivery::{Message, NewMessage, Problem, State},
};

struct Row {
    id: Uuid,
    account_id: AccountId,
    target_id: AgentId,
    sender_id: String,
    message_id: String,
    context_id: Option<String>,
    request_hash: Vec<u8>,
    state: State,
    attempts: i32,
    code: String,
    answer: Option<Vec<u8>>,
    answer_version: Option<Version>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Message {
    type Error = pg::Error;

    fn try_from(row: Row) -> Result<Self, pg::Error> {
        let broken = |column| pg::Error::inconsistent("relay_messages", column, row.id, "cannot be read");
        let answer = match (&row.answer, row.answer_version) {
            (Some(answer), Some(version)) => {
                let stored = serde_json::from_slice(answer).ok().and_then(Outcome::from_stored);
                Some((stored.ok_or_else(|| broken("answer"))?, version))
            }
            (_, _) => None,
        };
        Ok(Self {
            id: row.id,
            account_id: row.account_id,
            target_id: row.target_id,
            request_hash: row.request_hash.as_slice().try_into().map_err(|_| broken("request_hash"))?,
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
    }
}

/// The next message of a lane, as whoever delivers it reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub state: State,
    /// Its own ids.
    pub ids: MessageIds,
    /// Version of `params`.
    pub version: Version,
    /// What is sent.
    pub params: Value,
    /// Trace that it comes from.
    pub traceparent: Option<String>,
    /// How often it was dispatched.
    pub attempts: i32,
    /// How many of those can have arrived.
    pub arrivals: i32,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

/// Stores a message in its place.
///
/// # Errors
/// [`pg::Error::Conflict`] on `relay_messages_once` if its sender sent it before.
pub async fn insert(db: &mut PgConnection, new: &NewMessage, lane: Uuid, seq: i64) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO relay_messages
             (id, account_id, target_id, lane_id, seq, sender_id, message_id, context_id, request_hash, version,
              params, traceparent, state, created_at, expires_at)
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

/// A tenant's message, if it has such a one.
pub async fn find(db: &mut PgConnection, account: AccountId, id: Uuid) -> Result<Option<Message>, pg::Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, account_id, target_id, sender_id, message_id, context_id, request_hash, state, attempts, code,
                answer, answer_version, created_at, expires_at, settled_at
         FROM relay_messages
         WHERE id = $1 AND account_id = $2",
        id,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    row.map(Message::try_from).transpose()
}

/// The message that a sender sent to an agent under an A2A message id.
pub async fn find_sent(
    db: &mut PgConnection,
    account: AccountId,
    target: AgentId,
    sender_id: &str,
    message_id: &str,
) -> Result<Option<Message>, pg::Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, account_id, target_id, sender_id, message_id, context_id, request_hash, state, attempts, code,
                answer, answer_version, created_at, expires_at, settled_at
         FROM relay_messages
         WHERE target_id = $2 AND sender_id = $3 AND message_id = $4 AND account_id = $1",
        account as AccountId,
        target as AgentId,
        sender_id,
        message_id,
    )
    .fetch_optional(db)
    .await?;
    row.map(Message::try_from).transpose()
}

/// How many messages wait for an agent, counted up to `limit`.
pub async fn count_waiting(db: &mut PgConnection, target: AgentId, limit: i64) -> Result<i64, pg::Error> {
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

/// The lane of a message.
pub async fn lane_of(db: &mut PgConnection, id: Uuid) -> Result<Option<Uuid>, pg::Error> {
    Ok(sqlx::query_scalar!("SELECT lane_id FROM relay_messages WHERE id = $1", id).fetch_optional(db).await?)
}

/// The next message of a lane that is locked.
pub async fn head(db: &mut PgConnection, lane: Uuid) -> Result<Option<Head>, pg::Error> {
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
        Ok(Head {
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

/// Writes down that a message is sent now. It counts as arrived until it is known that it did not.
pub async fn dispatch(db: &mut PgConnection, id: Uuid) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = 'dispatched', attempts = attempts + 1, arrivals = arrivals + 1
         WHERE id = $1 AND state IN ('queued', 'dispatched')",
        id,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Puts a message back that did not get through.
pub async fn put_back(
    db: &mut PgConnection,
    id: Uuid,
    problem: Problem,
    arrived: bool,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = 'queued', code = $2, arrivals = arrivals - $3
         WHERE id = $1 AND state = 'dispatched'",
        id,
        problem.code(),
        i32::from(!arrived),
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Puts everything back that is on its way to an agent, whose deliverers were fenced out: what came of it will not
/// be written down.
pub async fn put_all_back(db: &mut PgConnection, target: AgentId) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages SET state = 'queued', code = $2 WHERE target_id = $1 AND state = 'dispatched'",
        target as AgentId,
        Problem::ConnectionLost.code(),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Ends a message that is on its way with the agent's answer.
pub async fn deliver(
    db: &mut PgConnection,
    id: Uuid,
    outcome: &Outcome,
    version: Version,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_messages
         SET state = 'delivered', code = '', answer = $2, answer_version = $3, settled_at = $4
         WHERE id = $1 AND state = 'dispatched'",
        id,
        outcome.to_stored().to_string().into_bytes(),
        version as Version,
        now,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Ends a message that stands at `from` without an answer.
pub async fn end(
    db: &mut PgConnection,
    id: Uuid,
    (from, to): (State, State),
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

/// Ends every message that waits for an agent which is removed.
pub async fn drop_all(db: &mut PgConnection, target: AgentId, now: DateTime<Utc>) -> Result<u64, pg::Error> {
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

/// Ends up to `limit` messages whose time is over, and says which. Lanes that somebody changes now are left for the
/// next time, accounts that are being erased for ever.
pub async fn expire(db: &mut PgConnection, limit: i64, now: DateTime<Utc>) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        "WITH due AS (
             SELECT id, lane_id, account_id
             FROM relay_messages
             WHERE state = 'queued' AND expires_at <= $3
               -- Those that stay must not fill the batch.
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

/// Deletes up to `limit` messages that ended before `before`.
pub async fn delete_settled(
    db: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "DELETE FROM relay_messages
         WHERE id IN (
             SELECT id FROM relay_messages WHERE settled_at < $1 ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
