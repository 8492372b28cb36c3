//! Rows of a tenant's agents. [`super::liveness`] has the statements that write many agents at once.

use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, AgentId},
};

use crate::domain::{
    agent::{Agent, DeliveryMode, Vitals},
    status::Status,
};

/// Stores a new agent.
pub(crate) async fn insert(db: &mut PgConnection, agent: &Agent) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "INSERT INTO agents
             (id, account_id, name, role, status, status_changed_at, generation, incarnation, delivery_mode,
              max_concurrent_tasks, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        agent.id as AgentId,
        agent.account_id as AccountId,
        agent.name,
        agent.role,
        agent.status as Status,
        agent.status_changed_at,
        agent.generation,
        agent.incarnation,
        agent.delivery_mode as DeliveryMode,
        agent.max_concurrent_tasks,
        agent.created_at,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Selects agents; `$clauses` follow FROM.
macro_rules! select {
    ($clauses:literal, $($argument:expr),* $(,)?) => {
        sqlx::query!(
            "SELECT id, account_id, name, role, status, status_changed_at, generation, incarnation,
                    delivery_mode, url, card, max_concurrent_tasks, active_tasks, error_rate, wedged,
                    judges_itself, sample_error, current_task, last_heartbeat_at, registered_at, created_at
             FROM agents " + $clauses,
            $($argument),*
        )
        .map(|row| Agent {
            id: row.id,
            account_id: row.account_id,
            name: row.name,
            role: row.role,
            status: row.status,
            status_changed_at: row.status_changed_at,
            generation: row.generation,
            incarnation: row.incarnation,
            delivery_mode: row.delivery_mode,
            url: row.url,
            card: row.card,
            max_concurrent_tasks: row.max_concurrent_tasks,
            vitals: Vitals {
                active_tasks: row.active_tasks,
                error_rate: row.error_rate,
                wedged: row.wedged,
                judges_itself: row.judges_itself,
                sample_error: row.sample_error,
                current_task: row.current_task,
            },
            last_heartbeat_at: row.last_heartbeat_at,
            registered_at: row.registered_at,
            created_at: row.created_at,
        })
    };
}

/// Finds a tenant's agent, removed or not.
pub(crate) async fn find(
    db: &mut PgConnection,
    account: AccountId,
    id: AgentId,
) -> Result<Option<Agent>, pg::Error> {
    let query = select!("WHERE id = $1 AND account_id = $2", id as AgentId, account as AccountId);
    Ok(query.fetch_optional(db).await?)
}

/// Finds a tenant's agent, removed or not, and share-locks its row: writers of the row wait until the
/// transaction ends.
pub(crate) async fn find_and_share(
    db: &mut PgConnection,
    account: AccountId,
    id: AgentId,
) -> Result<Option<Agent>, pg::Error> {
    let query = select!("WHERE id = $1 AND account_id = $2 FOR SHARE", id as AgentId, account as AccountId);
    Ok(query.fetch_optional(db).await?)
}

/// Locks a tenant's agent against other writers until the transaction ends.
pub(crate) async fn lock(db: &mut PgConnection, account: AccountId, id: AgentId) -> Result<(), pg::Error> {
    sqlx::query!(
        "SELECT id FROM agents WHERE id = $1 AND account_id = $2 FOR NO KEY UPDATE",
        id as AgentId,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    Ok(())
}

/// Lists a tenant's agents that are not removed, of one status if `status` is given, newest first; if
/// `before` is given, only those older than that agent.
pub(crate) async fn list(
    db: &mut PgConnection,
    account: AccountId,
    status: Option<Status>,
    before: Option<AgentId>,
    limit: i64,
) -> Result<Vec<Agent>, pg::Error> {
    let query = select!(
        "WHERE account_id = $1 AND status <> 'removed' AND ($2::uuid IS NULL OR id < $2)
           AND ($3::agent_status IS NULL OR status = $3)
         ORDER BY id DESC
         LIMIT $4",
        account as AccountId,
        before as Option<AgentId>,
        status as Option<Status>,
        limit,
    );
    Ok(query.fetch_all(db).await?)
}

/// Counts a tenant's agents that are not removed.
pub(crate) async fn count(db: &mut PgConnection, account: AccountId) -> Result<i64, pg::Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM agents WHERE account_id = $1 AND status <> 'removed'"#,
        account as AccountId,
    )
    .fetch_one(db)
    .await?;
    Ok(count)
}

/// Stores the record `next`, which the caller made from generation `read`. Every change of one agent's status
/// uses this function; only the sweep uses [`super::liveness::mark_offline`].
///
/// # Errors
/// [`pg::Error::Stale`] if the stored generation is not `read`.
pub(crate) async fn update(db: &mut PgConnection, next: &Agent, read: i64) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE agents
         SET status = $4, status_changed_at = $5, generation = $6, incarnation = $7, delivery_mode = $8,
             url = $9, card = $10, active_tasks = $11, error_rate = $12, wedged = $13, judges_itself = $14,
             sample_error = $15, current_task = $16, last_heartbeat_at = $17, registered_at = $18
         WHERE id = $1 AND account_id = $2 AND generation = $3",
        next.id as AgentId,
        next.account_id as AccountId,
        read,
        next.status as Status,
        next.status_changed_at,
        next.generation,
        next.incarnation,
        next.delivery_mode as DeliveryMode,
        next.url,
        next.card,
        next.vitals.active_tasks,
        next.vitals.error_rate,
        next.vitals.wedged,
        next.vitals.judges_itself,
        next.vitals.sample_error,
        next.vitals.current_task,
        next.last_heartbeat_at,
        next.registered_at,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}
