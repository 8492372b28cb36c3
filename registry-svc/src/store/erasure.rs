//! What an erasure deletes and counts: all of an account's rows. A session has none here.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, AgentId},
};
use uuid::Uuid;

/// A kind of rows that an erasure deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What agents were sent, and answered.
    Messages,
    /// Conversations with agents.
    Lanes,
    /// Tokens of the account and of its agents.
    Tokens,
    /// Agents.
    Agents,
    /// Keys of the account's requests.
    IdempotencyKeys,
}

impl Kind {
    /// Every kind, in the order in which they go.
    pub const ALL: [Self; 5] =
        [Self::Messages, Self::Lanes, Self::Tokens, Self::Agents, Self::IdempotencyKeys];

    /// Its name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "registry.relay_messages",
            Self::Lanes => "registry.relay_lanes",
            Self::Tokens => "registry.api_tokens",
            Self::Agents => "registry.agents",
            Self::IdempotencyKeys => "registry.idempotency_keys",
        }
    }
}

/// Whether there is such an account.
pub async fn exists(db: &mut PgConnection, account: AccountId) -> Result<bool, pg::Error> {
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM accounts WHERE id = $1) AS "known!""#,
        account as AccountId
    )
    .fetch_one(db)
    .await?;
    Ok(known)
}

/// The account's agents, removed ones too.
pub async fn list_agents(db: &mut PgConnection, account: AccountId) -> Result<Vec<AgentId>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: AgentId" FROM agents WHERE account_id = $1 ORDER BY id"#,
        account as AccountId
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Deletes up to `limit` rows of `kind`; says how many those were.
pub async fn delete_some(
    db: &mut PgConnection,
    kind: Kind,
    account: AccountId,
    limit: i64,
) -> Result<u64, pg::Error> {
    let done = match kind {
        Kind::Messages => {
            sqlx::query!(
                "DELETE FROM relay_messages WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM relay_messages WHERE account_id = $1 LIMIT $2))",
                account as AccountId,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Lanes => {
            sqlx::query!(
                "DELETE FROM relay_lanes WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM relay_lanes WHERE account_id = $1 LIMIT $2))",
                account as AccountId,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Tokens => {
            sqlx::query!(
                "DELETE FROM api_tokens WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM api_tokens WHERE account_id = $1 LIMIT $2))",
                account as AccountId,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Agents => {
            sqlx::query!(
                "DELETE FROM agents WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM agents WHERE account_id = $1 LIMIT $2))",
                account as AccountId,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::IdempotencyKeys => {
            sqlx::query!(
                "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM idempotency_keys WHERE account_id = $1 LIMIT $2))",
                account as AccountId,
                limit,
            )
            .execute(db)
            .await?
        }
    };
    Ok(done.rows_affected())
}

/// Takes the personal data out of the account's head, which itself goes last.
pub async fn blank_head(db: &mut PgConnection, account: AccountId) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE accounts SET name = 'erased' WHERE id = $1 AND name <> 'erased'",
        account as AccountId
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes the account's head.
pub async fn delete_head(db: &mut PgConnection, account: AccountId) -> Result<(), pg::Error> {
    sqlx::query!("DELETE FROM accounts WHERE id = $1", account as AccountId).execute(db).await?;
    Ok(())
}

/// What is there, kind by kind, in the order of [`Kind::ALL`], and when it was read: of an account, or of nobody.
pub async fn count(
    db: &mut PgConnection,
    account: Option<AccountId>,
) -> Result<([(Kind, i64); 5], DateTime<Utc>), pg::Error> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM relay_messages WHERE account_id = $1) AS "messages!",
                  (SELECT count(*) FROM relay_lanes WHERE account_id = $1) AS "lanes!",
                  (SELECT count(*) FROM api_tokens WHERE account_id = $1) AS "tokens!",
                  (SELECT count(*) FROM agents WHERE account_id = $1) AS "agents!",
                  (SELECT count(*) FROM idempotency_keys WHERE account_id = $1) AS "keys!",
                  clock_timestamp() AS "at!""#,
        account as Option<AccountId>,
    )
    .fetch_one(db)
    .await?;
    let counts = [
        (Kind::Messages, row.messages),
        (Kind::Lanes, row.lanes),
        (Kind::Tokens, row.tokens),
        (Kind::Agents, row.agents),
        (Kind::IdempotencyKeys, row.keys),
    ];
    Ok((counts, row.at))
}

/// Accounts that are erased and of which something is left: none, ever.
pub async fn list_erased_with_rows(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT c.subject_id AS "id: Uuid" FROM custody c
            WHERE c.kind = 'account' AND c.state = 'erased'
              AND (EXISTS (SELECT FROM accounts WHERE id = c.subject_id)
                   OR EXISTS (SELECT FROM agents WHERE account_id = c.subject_id)
                   OR EXISTS (SELECT FROM api_tokens WHERE account_id = c.subject_id)
                   OR EXISTS (SELECT FROM relay_lanes WHERE account_id = c.subject_id)
                   OR EXISTS (SELECT FROM relay_messages WHERE account_id = c.subject_id))
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Accounts that nobody could freeze, because they have no custody row: none, ever.
pub async fn list_without_custody(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: Uuid" FROM accounts a
            WHERE NOT EXISTS (SELECT FROM custody c WHERE c.kind = 'account' AND c.subject_id = a.id)
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}
