//! Accounts.

use sqlx::PgConnection;
use svc_core::{data::pg, id::AccountId};

use crate::domain::account::Account;

/// Stores a new account.
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

/// An account, if there is such a one.
pub async fn find(db: &mut PgConnection, id: AccountId) -> Result<Option<Account>, pg::Error> {
    let account =
        sqlx::query_as!(Account, "SELECT id, name, created_at FROM accounts WHERE id = $1", id as AccountId,)
            .fetch_optional(db)
            .await?;
    Ok(account)
}

/// The oldest account of a name, if there is one.
pub async fn find_by_name(db: &mut PgConnection, name: &str) -> Result<Option<Account>, pg::Error> {
    let account = sqlx::query_as!(
        Account,
        "SELECT id, name, created_at FROM accounts WHERE name = $1 ORDER BY id LIMIT 1",
        name,
    )
    .fetch_optional(db)
    .await?;
    Ok(account)
}

/// Accounts, newest first, from after `before`.
pub async fn list(
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

/// Makes transactions that count something of an account wait for each other.
pub async fn lock(db: &mut PgConnection, id: AccountId) -> Result<(), pg::Error> {
    sqlx::query!("SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE", id as AccountId)
        .fetch_optional(db)
        .await?;
    Ok(())
}
