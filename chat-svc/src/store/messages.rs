//! Reads and writes of messages. The messages of a turn are its input and its committed steps; a worker that
//! takes the turn over does not repeat those steps.

use sqlx::{PgConnection, types::Json};
use svc_core::{
    data::pg,
    id::{AccountId, MessageId, SessionId, TurnId},
};

use crate::domain::message::{Message, Part, Role, StoredMessage};

/// Reads messages; `$tail` follows FROM.
macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            r#"SELECT id, account_id, session_id, turn_id, ordinal, step, role,
                      parts AS "parts: Json<Vec<Part>>", model, finish_reason, created_at
               FROM messages "# + $tail
            $(, $argument)*
        )
        .map(|row| StoredMessage {
            id: row.id,
            account_id: row.account_id,
            session_id: row.session_id,
            turn_id: row.turn_id,
            ordinal: row.ordinal,
            step: row.step,
            message: Message { role: row.role, parts: row.parts.0 },
            model: row.model,
            finish_reason: row.finish_reason,
            created_at: row.created_at,
        })
    };
}

pub(crate) async fn insert(db: &mut PgConnection, message: &StoredMessage) -> Result<(), pg::Error> {
    sqlx::query!(
        "INSERT INTO messages (
             id, account_id, session_id, turn_id, ordinal, step, role, parts, model, finish_reason, created_at
         )
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        message.id as MessageId,
        message.account_id as AccountId,
        message.session_id as SessionId,
        message.turn_id as TurnId,
        message.ordinal,
        message.step,
        message.message.role as Role,
        Json(&message.message.parts) as _,
        message.model,
        message.finish_reason,
        message.created_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists a session's messages, oldest first, from after `after`.
pub(crate) async fn list(
    db: &mut PgConnection,
    account_id: AccountId,
    session_id: SessionId,
    after: Option<MessageId>,
    limit: i64,
) -> Result<Vec<StoredMessage>, pg::Error> {
    let messages = select!(
        "WHERE session_id = $1 AND account_id = $2
           AND ($3::uuid IS NULL
                OR (ordinal, step, role)
                   > (SELECT ordinal, step, role FROM messages WHERE id = $3 AND session_id = $1))
         ORDER BY ordinal, step, role
         LIMIT $4",
        session_id as SessionId,
        account_id as AccountId,
        after as Option<MessageId>,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(messages)
}

/// Lists the session's messages before the turn at `ordinal`, newest first, starting before the message
/// `before`.
pub(crate) async fn list_before(
    db: &mut PgConnection,
    account_id: AccountId,
    session_id: SessionId,
    ordinal: i64,
    before: Option<MessageId>,
    limit: i64,
) -> Result<Vec<StoredMessage>, pg::Error> {
    let messages = select!(
        "WHERE session_id = $1 AND account_id = $2 AND ordinal < $3
           AND ($4::uuid IS NULL
                OR (ordinal, step, role)
                   < (SELECT ordinal, step, role FROM messages WHERE id = $4 AND session_id = $1))
         ORDER BY ordinal DESC, step DESC, role DESC
         LIMIT $5",
        session_id as SessionId,
        account_id as AccountId,
        ordinal,
        before as Option<MessageId>,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(messages)
}

/// Lists a turn's own messages in order: its input and its committed steps.
pub(crate) async fn list_of_turn(
    db: &mut PgConnection,
    account_id: AccountId,
    turn_id: TurnId,
) -> Result<Vec<StoredMessage>, pg::Error> {
    let messages = select!(
        "WHERE turn_id = $1 AND account_id = $2
         ORDER BY step, role",
        turn_id as TurnId,
        account_id as AccountId,
    )
    .fetch_all(db)
    .await?;
    Ok(messages)
}

/// Returns the last step that the turn committed; 0 if none.
pub(crate) async fn last_step(db: &mut PgConnection, turn_id: TurnId) -> Result<i32, pg::Error> {
    let step = sqlx::query_scalar!(
        r#"SELECT coalesce(max(step), 0) AS "step!" FROM messages WHERE turn_id = $1 AND role = 'assistant'"#,
        turn_id as TurnId,
    )
    .fetch_one(db)
    .await?;
    Ok(step)
}
