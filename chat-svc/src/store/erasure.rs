//! The tables that an erasure clears in chat-svc, and the queries that find rows which no erasure may leave.

use sqlx::PgConnection;
use svc_core::{custody_tables, data::pg, subject::Subject};
use uuid::Uuid;

custody_tables! {
    /// Tables of an erasure. Its Erase step deletes from all but the head, in this order: events before
    /// turns, because events are found through their turns. Its Commit step deletes the head's rows.
    pub static TABLES;
    head "chat.sessions" => sessions(account_id, id);
    "chat.turn_events" => turn_events through turns by turn_id;
    "chat.tool_calls" => tool_calls;
    "chat.messages" => messages;
    "chat.turns" => turns;
    "chat.idempotency_keys" => idempotency_keys;
}

/// Name of the rows that an erasure keeps: the ledger of usage, which has no content.
pub(crate) const SURVIVOR: &str = "chat.usage_ledger";

/// Blanks the titles of the subject's sessions; the Commit step later deletes these rows.
pub(crate) async fn blank_heads(db: &mut PgConnection, subject: Subject) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE sessions
         SET title = ''
         WHERE account_id = $1 AND ($2::uuid IS NULL OR id = $2) AND title <> ''",
        subject.account().0,
        subject.session().map(|id| id.0),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists ids of turns that have events but no row. There should be none.
pub(crate) async fn list_orphan_events(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT DISTINCT turn_id AS "turn_id: Uuid"
           FROM turn_events e
           WHERE NOT EXISTS (SELECT FROM turns t WHERE t.id = e.turn_id)
           LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Lists turns that are not final although their session is frozen. There should be none.
pub(crate) async fn list_open_of_frozen(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT t.id AS "id: Uuid"
           FROM turns t
           JOIN custody c ON c.kind = 'session' AND c.subject_id = t.session_id
           JOIN custody_steps s ON s.purge_id = c.purge_id AND s.step = 'freeze'
           WHERE c.state <> 'live' AND t.status IN ('queued', 'running')
           LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}
