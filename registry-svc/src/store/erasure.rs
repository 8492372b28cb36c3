//! The rows of an account, for its erasure. registry-svc has no rows of a session.

use sqlx::PgConnection;
use svc_core::{
    custody_tables,
    data::pg,
    id::{AccountId, AgentId},
};
use uuid::Uuid;

custody_tables! {
    /// The tables of accounts, in the order in which an erasure deletes from them; the row in `accounts`
    /// (`head`) is deleted last.
    pub static TABLES;
    head "registry.accounts" => accounts(id);
    "registry.relay_messages" => relay_messages(account_id);
    "registry.relay_lanes" => relay_lanes(account_id);
    "registry.api_tokens" => api_tokens(account_id);
    "registry.agents" => agents(account_id);
    "registry.idempotency_keys" => idempotency_keys(account_id);
}

/// Lists the ids of an account's agents, removed ones too.
pub(crate) async fn list_agents(
    db: &mut PgConnection,
    account: AccountId,
) -> Result<Vec<AgentId>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: AgentId" FROM agents WHERE account_id = $1 ORDER BY id"#,
        account as AccountId
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Blanks the personal data in the account's row, which itself is deleted last.
pub(crate) async fn blank_head(db: &mut PgConnection, account: AccountId) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE accounts SET name = 'erased' WHERE id = $1 AND name <> 'erased'",
        account as AccountId
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists accounts without a custody row, which could not be frozen. There must be none.
pub(crate) async fn list_without_custody(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
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
