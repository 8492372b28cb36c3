//! Agents' liveness in Postgres, set-wise: what many agents said, and which of many are silent.
//!
//! Each statement holds the custody rows of the accounts it writes, so that an erasure waits for it, and locks
//! agents in the order of their ids, so that replicas do not lock each other out.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, AgentId},
};
use uuid::Uuid;

use crate::domain::{agent::Vitals, beat::Snapshot, status::Status};

/// What was heard of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The agent.
    pub agent: AgentId,
    /// Its tenant.
    pub account: AccountId,
    /// The incarnation that was heard.
    pub incarnation: i64,
    /// What it said.
    pub vitals: Vitals,
    /// When.
    pub at: DateTime<Utc>,
}

/// Where an agent stands, and when it was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The agent.
    pub agent: AgentId,
    /// Where it stands.
    pub snapshot: Snapshot,
    /// When it was last heard of.
    pub last_heartbeat_at: Option<DateTime<Utc>>,
}

struct Row {
    id: AgentId,
    incarnation: i64,
    status: Status,
    judges_itself: bool,
    last_heartbeat_at: Option<DateTime<Utc>>,
}

impl From<Row> for Standing {
    fn from(row: Row) -> Self {
        let Row { id, incarnation, status, judges_itself, last_heartbeat_at } = row;
        Self { agent: id, snapshot: Snapshot { incarnation, status, judges_itself }, last_heartbeat_at }
    }
}

/// Writes what was heard of agents and says of which: not of those that are in another incarnation by now, removed,
/// or being erased.
pub async fn write_heard(db: &mut PgConnection, heard: &[Heard]) -> Result<Vec<AgentId>, pg::Error> {
    let column = |of: fn(&Heard) -> Uuid| heard.iter().map(of).collect::<Vec<_>>();
    let (agents, accounts) = (column(|h| h.agent.0), column(|h| h.account.0));
    let incarnations: Vec<i64> = heard.iter().map(|h| h.incarnation).collect();
    let times: Vec<DateTime<Utc>> = heard.iter().map(|h| h.at).collect();
    let tasks: Vec<i32> = heard.iter().map(|h| h.vitals.active_tasks).collect();
    let rates: Vec<f64> = heard.iter().map(|h| h.vitals.error_rate).collect();
    let wedged: Vec<bool> = heard.iter().map(|h| h.vitals.wedged).collect();
    let errors: Vec<String> = heard.iter().map(|h| h.vitals.sample_error.clone()).collect();
    let current: Vec<String> = heard.iter().map(|h| h.vitals.current_task.clone()).collect();
    let written = sqlx::query_scalar!(
        r#"WITH heard AS (
               SELECT * FROM unnest(
                   $1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::integer[], $6::float8[],
                   $7::boolean[], $8::text[], $9::text[]
               ) AS h (agent_id, account_id, incarnation, at, tasks, rate, wedged, error, current)
           ), live AS (
               SELECT subject_id
               FROM custody
               WHERE kind = 'account' AND subject_id = ANY ($2) AND state = 'live'
               ORDER BY subject_id
               FOR KEY SHARE
           ), locked AS (
               SELECT agents.id
               FROM agents
               JOIN heard ON heard.agent_id = agents.id AND heard.account_id = agents.account_id
               WHERE agents.incarnation = heard.incarnation AND agents.status <> 'removed'
                 AND agents.account_id IN (SELECT subject_id FROM live)
               ORDER BY agents.id
               FOR NO KEY UPDATE OF agents
           )
           UPDATE agents
           SET last_heartbeat_at = greatest(agents.last_heartbeat_at, heard.at), active_tasks = heard.tasks,
               error_rate = heard.rate, wedged = heard.wedged, sample_error = heard.error,
               current_task = heard.current
           FROM heard JOIN locked ON locked.id = heard.agent_id
           WHERE agents.id = heard.agent_id AND agents.incarnation = heard.incarnation
           RETURNING agents.id AS "id: AgentId""#,
        &agents,
        &accounts,
        &incarnations,
        &times,
        &tasks,
        &rates,
        &wedged,
        &errors,
        &current,
    )
    .fetch_all(db)
    .await?;
    Ok(written)
}

/// Where these agents stand; those that are not there are left out.
pub async fn standings(db: &mut PgConnection, agents: &[AgentId]) -> Result<Vec<Standing>, pg::Error> {
    let ids: Vec<Uuid> = agents.iter().map(|agent| agent.0).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, incarnation, status, judges_itself, last_heartbeat_at FROM agents WHERE id = ANY ($1)",
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Standing::from).collect())
}

/// Agents that count as alive, by id, from after `after`.
pub async fn alive(
    db: &mut PgConnection,
    after: Option<AgentId>,
    limit: i64,
) -> Result<Vec<Standing>, pg::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, incarnation, status, judges_itself, last_heartbeat_at
         FROM agents
         WHERE status IN ('online', 'degraded') AND ($1::uuid IS NULL OR id > $1)
         ORDER BY id
         LIMIT $2",
        after as Option<AgentId>,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Standing::from).collect())
}

/// Marks agents as offline that are silent in the incarnation in which they were heard, unless some replica wrote
/// down that it heard them at or after `heard_since`. The next incarnation begins with it. Says which they were.
pub async fn mark_silent(
    db: &mut PgConnection,
    silent: &[(AgentId, i64)],
    heard_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<Standing>, pg::Error> {
    let (ids, incarnations): (Vec<Uuid>, Vec<i64>) =
        silent.iter().map(|(agent, incarnation)| (agent.0, *incarnation)).unzip();
    let rows = sqlx::query_as!(
        Row,
        "WITH silent AS (
             SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS s (agent_id, incarnation)
         ), live AS (
             SELECT subject_id
             FROM custody
             WHERE kind = 'account' AND state = 'live'
               AND subject_id IN (SELECT account_id FROM agents WHERE id = ANY ($1))
             ORDER BY subject_id
             FOR KEY SHARE
         ), locked AS (
             SELECT agents.id
             FROM agents
             JOIN silent ON silent.agent_id = agents.id
             WHERE agents.incarnation = silent.incarnation AND agents.status IN ('online', 'degraded')
               AND (agents.last_heartbeat_at IS NULL OR agents.last_heartbeat_at < $3)
               AND agents.account_id IN (SELECT subject_id FROM live)
             ORDER BY agents.id
             FOR NO KEY UPDATE OF agents
         )
         UPDATE agents
         SET status = 'offline', status_changed_at = $4, generation = generation + 1, incarnation = incarnation + 1
         FROM locked
         WHERE agents.id = locked.id AND agents.status IN ('online', 'degraded')
         RETURNING agents.id, agents.incarnation, agents.status, agents.judges_itself, agents.last_heartbeat_at",
        &ids,
        &incarnations,
        heard_since,
        now,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Standing::from).collect())
}
