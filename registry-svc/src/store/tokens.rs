//! Rows of API tokens.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, AgentId, TokenId},
};

use crate::domain::token::{Holder, Scopes, SecretHash, Token, TokenKind};

/// Stores a new token.
pub(crate) async fn insert(
    db: &mut PgConnection,
    token: &Token,
    secret: &SecretHash,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO api_tokens
             (id, kind, account_id, agent_id, name, prefix, secret_hash, scopes, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        token.id as TokenId,
        token.holder.kind() as TokenKind,
        token.holder.account() as Option<AccountId>,
        token.holder.agent() as Option<AgentId>,
        token.name,
        token.prefix,
        &secret.as_bytes()[..],
        token.scopes.as_slice(),
        token.created_at,
        token.expires_at,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Selects tokens, each as its own `Result`; `$clauses` follow FROM.
macro_rules! select {
    ($clauses:literal, $($argument:expr),* $(,)?) => {
        sqlx::query!(
            "SELECT id, kind, account_id, agent_id, name, prefix, scopes, created_at, expires_at, revoked_at
             FROM api_tokens " + $clauses,
            $($argument),*
        )
        .map(|row| {
            let holder = Holder::from_parts(row.kind, row.account_id, row.agent_id)
                .ok_or_else(|| pg::Error::inconsistent("api_tokens", "kind", row.id, "ids do not fit it"))?;
            Ok(Token {
                id: row.id,
                holder,
                name: row.name,
                prefix: row.prefix,
                scopes: Scopes::from_stored(row.scopes),
                created_at: row.created_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
            })
        })
    };
}

/// Finds the token with this secret, valid or not.
pub(crate) async fn find_by_secret(
    db: &mut PgConnection,
    secret: &SecretHash,
) -> Result<Option<Token>, pg::Error> {
    let query = select!("WHERE secret_hash = $1", &secret.as_bytes()[..]);
    query.fetch_optional(db).await?.transpose()
}

/// Finds a token of any account, and share-locks its row: a revocation waits until the transaction ends.
pub(crate) async fn find_and_share(db: &mut PgConnection, id: TokenId) -> Result<Option<Token>, pg::Error> {
    select!("WHERE id = $1 FOR SHARE", id as TokenId).fetch_optional(db).await?.transpose()
}

/// Finds a token of any account, and locks its row: its revocation and other registrations with it wait until
/// the transaction ends.
pub(crate) async fn find_and_lock(db: &mut PgConnection, id: TokenId) -> Result<Option<Token>, pg::Error> {
    select!("WHERE id = $1 FOR UPDATE", id as TokenId).fetch_optional(db).await?.transpose()
}

/// Finds a token of an account itself; a token of one of its agents is not found.
pub(crate) async fn find(
    db: &mut PgConnection,
    account: AccountId,
    id: TokenId,
) -> Result<Option<Token>, pg::Error> {
    let query = select!(
        "WHERE id = $1 AND account_id = $2 AND kind = 'account'",
        id as TokenId,
        account as AccountId
    );
    query.fetch_optional(db).await?.transpose()
}

/// Lists the tokens of an account itself, newest first; if `before` is given, only those older than that
/// token.
pub(crate) async fn list(
    db: &mut PgConnection,
    account: AccountId,
    before: Option<TokenId>,
    limit: i64,
) -> Result<Vec<Token>, pg::Error> {
    let query = select!(
        "WHERE account_id = $1 AND kind = 'account' AND ($2::uuid IS NULL OR id < $2)
         ORDER BY id DESC
         LIMIT $3",
        account as AccountId,
        before as Option<TokenId>,
        limit,
    );
    query.fetch_all(db).await?.into_iter().collect()
}

/// Counts the tokens of an account itself that are valid at `now`.
pub(crate) async fn count_live(
    db: &mut PgConnection,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<i64, pg::Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM api_tokens
           WHERE account_id = $1 AND kind = 'account' AND revoked_at IS NULL
             AND (expires_at IS NULL OR expires_at > $2)"#,
        account as AccountId,
        now,
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Revokes a token; `false` if it was revoked already.
pub(crate) async fn revoke(
    db: &mut PgConnection,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<bool, pg::Error> {
    let done = sqlx::query!(
        "UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        id as TokenId,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes an agent's tokens of these kinds; returns their number.
pub(crate) async fn revoke_of_agent(
    db: &mut PgConnection,
    account: AccountId,
    agent: AgentId,
    kinds: &[TokenKind],
    now: DateTime<Utc>,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE api_tokens
         SET revoked_at = $4
         WHERE account_id = $1 AND agent_id = $2 AND kind = ANY($3) AND revoked_at IS NULL",
        account as AccountId,
        agent as AgentId,
        kinds as &[TokenKind],
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
