//! Reads and writes of sessions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SessionId},
};

use crate::domain::session::{InputPolicy, Session};

macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Session,
            "SELECT id, account_id, title, input_policy, route, created_at, updated_at FROM sessions " + $tail
            $(, $argument)*
        )
    };
}

pub(crate) async fn insert(db: &mut PgConnection, session: &Session) -> Result<(), pg::Error> {
    sqlx::query!(
        "INSERT INTO sessions (id, account_id, title, input_policy, route, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        session.id as SessionId,
        session.account_id as AccountId,
        session.title,
        session.input_policy as InputPolicy,
        session.route,
        session.created_at,
        session.updated_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds a tenant's session.
pub(crate) async fn find(
    db: &mut PgConnection,
    account_id: AccountId,
    id: SessionId,
) -> Result<Option<Session>, pg::Error> {
    let session = select!("WHERE id = $1 AND account_id = $2", id as SessionId, account_id as AccountId)
        .fetch_optional(db)
        .await?;
    Ok(session)
}

/// Lists a tenant's sessions, newest first, from after `after`.
pub(crate) async fn list(
    db: &mut PgConnection,
    account_id: AccountId,
    after: Option<SessionId>,
    limit: i64,
) -> Result<Vec<Session>, pg::Error> {
    let sessions = select!(
        "WHERE account_id = $1 AND ($2::uuid IS NULL OR id < $2)
         ORDER BY id DESC
         LIMIT $3",
        account_id as AccountId,
        after as Option<SessionId>,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(sessions)
}

/// Takes the ordinal of the session's next turn and sets the time of the session's last change. The update
/// locks the session's row until the transaction ends, so that its inputs are admitted one after the other.
/// Returns the input policy and the ordinal, or `None` if the tenant has no such session.
pub(crate) async fn next_ordinal(
    db: &mut PgConnection,
    account_id: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<Option<(InputPolicy, i64)>, pg::Error> {
    let row = sqlx::query!(
        r#"UPDATE sessions
           SET next_ordinal = next_ordinal + 1, updated_at = greatest(updated_at, $3)
           WHERE id = $1 AND account_id = $2
           RETURNING input_policy, next_ordinal - 1 AS "ordinal!""#,
        id as SessionId,
        account_id as AccountId,
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.input_policy, row.ordinal)))
}

/// Locks the session's row and sets its time of change.
pub(crate) async fn touch(
    db: &mut PgConnection,
    account_id: AccountId,
    id: SessionId,
    now: DateTime<Utc>,
) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE sessions
         SET updated_at = greatest(updated_at, $3)
         WHERE id = $1 AND account_id = $2",
        id as SessionId,
        account_id as AccountId,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}
