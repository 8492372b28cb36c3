//! What an erasure deletes and counts: a session's rows, or all of an account's.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SessionId},
};
use uuid::Uuid;

/// A kind of rows that an erasure deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What turns showed.
    Events,
    /// What tools were asked and said.
    ToolCalls,
    /// What sessions remember.
    Messages,
    /// Turns themselves.
    Turns,
    /// Keys of requests.
    IdempotencyKeys,
    /// Heads: they go last, when the erasure is committed.
    Sessions,
}

impl Kind {
    /// Every kind, in the order in which they go.
    pub const ALL: [Self; 6] =
        [Self::Events, Self::ToolCalls, Self::Messages, Self::Turns, Self::IdempotencyKeys, Self::Sessions];

    /// Its name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "chat.turn_events",
            Self::ToolCalls => "chat.tool_calls",
            Self::Messages => "chat.messages",
            Self::Turns => "chat.turns",
            Self::IdempotencyKeys => "chat.idempotency_keys",
            Self::Sessions => "chat.sessions",
        }
    }
}

/// The kind of which rows survive: what was spent, without content.
pub const SURVIVOR: &str = "chat.usage_ledger";

/// Whose rows.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The tenant.
    pub account_id: AccountId,
    /// One session, or all of them.
    pub session_id: Option<SessionId>,
}

/// Deletes up to `limit` rows of `kind`; says how many those were.
pub async fn delete_some(
    db: &mut PgConnection,
    kind: Kind,
    scope: Scope,
    limit: i64,
) -> Result<u64, pg::Error> {
    let (account, session) = (scope.account_id.0, scope.session_id.map(|id| id.0));
    let done = match kind {
        Kind::Events => {
            sqlx::query!(
                "DELETE FROM turn_events WHERE ctid = ANY (ARRAY(
                     SELECT e.ctid FROM turn_events e JOIN turns t ON t.id = e.turn_id
                      WHERE t.account_id = $1 AND ($2::uuid IS NULL OR t.session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::ToolCalls => {
            sqlx::query!(
                "DELETE FROM tool_calls WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM tool_calls
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Messages => {
            sqlx::query!(
                "DELETE FROM messages WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM messages
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Turns => {
            sqlx::query!(
                "DELETE FROM turns WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM turns
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::IdempotencyKeys => {
            sqlx::query!(
                "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM idempotency_keys
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Sessions => {
            sqlx::query!(
                "DELETE FROM sessions WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM sessions
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
    };
    Ok(done.rows_affected())
}

/// Whether there is a session of the subject.
pub async fn exists(db: &mut PgConnection, scope: Scope) -> Result<bool, pg::Error> {
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM sessions
                           WHERE account_id = $1 AND ($2::uuid IS NULL OR id = $2)) AS "known!""#,
        scope.account_id.0,
        scope.session_id.map(|id| id.0),
    )
    .fetch_one(db)
    .await?;
    Ok(known)
}

/// Takes the personal data out of heads, which themselves go last.
pub async fn blank_heads(db: &mut PgConnection, scope: Scope) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE sessions SET title = ''
          WHERE account_id = $1 AND ($2::uuid IS NULL OR id = $2) AND title <> ''",
        scope.account_id.0,
        scope.session_id.map(|id| id.0),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What is there, kind by kind, in the order of [`Kind::ALL`], and when it was read. Events are found through
/// their turns, so they must go before them; [`list_orphan_events`] proves that none was left.
pub async fn count(
    db: &mut PgConnection,
    scope: Scope,
) -> Result<([(Kind, i64); 6], DateTime<Utc>), pg::Error> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM turn_events e JOIN turns t ON t.id = e.turn_id
                    WHERE t.account_id = $1 AND ($2::uuid IS NULL OR t.session_id = $2)) AS "events!",
                  (SELECT count(*) FROM tool_calls
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "tool_calls!",
                  (SELECT count(*) FROM messages
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "messages!",
                  (SELECT count(*) FROM turns
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "turns!",
                  (SELECT count(*) FROM idempotency_keys
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "keys!",
                  (SELECT count(*) FROM sessions
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR id = $2)) AS "sessions!",
                  clock_timestamp() AS "at!""#,
        scope.account_id.0,
        scope.session_id.map(|id| id.0),
    )
    .fetch_one(db)
    .await?;
    let counts = [
        (Kind::Events, row.events),
        (Kind::ToolCalls, row.tool_calls),
        (Kind::Messages, row.messages),
        (Kind::Turns, row.turns),
        (Kind::IdempotencyKeys, row.keys),
        (Kind::Sessions, row.sessions),
    ];
    Ok((counts, row.at))
}

/// Turns of which events are left although they are gone: none, ever.
pub async fn list_orphan_events(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT DISTINCT turn_id AS "turn_id: Uuid" FROM turn_events e
            WHERE NOT EXISTS (SELECT FROM turns t WHERE t.id = e.turn_id) LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Subjects that are erased and of which something is left: none, ever.
pub async fn list_erased_with_rows(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT c.subject_id AS "id: Uuid" FROM custody c
            WHERE c.state = 'erased'
              AND (EXISTS (SELECT FROM sessions s WHERE c.kind = 'session' AND s.id = c.subject_id)
                   OR EXISTS (SELECT FROM sessions s WHERE c.kind = 'account' AND s.account_id = c.subject_id)
                   OR EXISTS (SELECT FROM turns t WHERE c.kind = 'session' AND t.session_id = c.subject_id)
                   OR EXISTS (SELECT FROM messages m WHERE c.kind = 'session' AND m.session_id = c.subject_id))
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Turns that are not final although their session may not be written: none, ever.
pub async fn list_open_of_frozen(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT t.id AS "id: Uuid" FROM turns t
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
