//! Rows of accounts, and the lock for limits of an account.

use sqlx::PgConnection;
use svc_core::{data::pg, id::AccountId};

use crate::domain::account::Account;

pub async fn insert(db: &mut PgConnection, account: &Account) -> Result<(), pg::Error> {
    sqlx::query!(
        "INSERT INTO accounts (id, name, created_at) VALUES ($1, $2, $3)",
        account.id as AccountId,
        account.name,
        account.created_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn find(db: &mut PgConnection, id: AccountId) -> Result<Option<Account>, pg::Error> {
    let account =
        sqlx::query_as!(Account, "SELECT id, name, created_at FROM accounts WHERE id = $1", id as AccountId)
            .fetch_optional(db)
            .await?;
    Ok(account)
}

/// Finds the oldest account of a name.
pub(crate) async fn find_by_name(db: &mut PgConnection, name: &str) -> Result<Option<Account>, pg::Error> {
    let account = sqlx::query_as!(
        Account,
        "SELECT id, name, created_at FROM accounts WHERE name = $1 ORDER BY id LIMIT 1",
        name,
    )
    .fetch_optional(db)
    .await?;
    Ok(account)
}

/// Lists accounts, newest first; if `before` is given, only those older than that account.
pub(crate) async fn list(
    db: &mut PgConnection,
    before: Option<AccountId>,
    limit: i64,
) -> Result<Vec<Account>, pg::Error> {
    let accounts = sqlx::query_as!(
        Account,
        "SELECT id, name, created_at
         FROM accounts
         WHERE $1::uuid IS NULL OR id < $1
         ORDER BY id DESC
         LIMIT $2",
        before as Option<AccountId>,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(accounts)
}

/// Locks an account until the transaction ends, so that transactions that count rows of it run one by one.
pub(crate) async fn lock(db: &mut PgConnection, id: AccountId) -> Result<(), pg::Error> {
    sqlx::query!("SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE", id as AccountId)
        .fetch_optional(db)
        .await?;
    Ok(())
}
