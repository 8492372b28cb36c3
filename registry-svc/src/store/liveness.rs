//! Writes beats to Postgres and marks silent agents offline, many agents in one statement.
//!
//! A statement that writes locks the custody rows of the agents' accounts, so that an erasure waits for it,
//! and locks agents in the order of their ids, so that replicas do not deadlock.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg, id::AgentId};
use uuid::Uuid;

use crate::domain::beat::{AgentLiveness, BeatRecord, Snapshot};

/// Reads the liveness of agents; the statement returns the columns of [`AgentLiveness`].
macro_rules! liveness {
    ($statement:literal, $($argument:expr),* $(,)?) => {
        sqlx::query!($statement, $($argument),*).map(|row| AgentLiveness {
            agent: row.id,
            snapshot: Snapshot {
                incarnation: row.incarnation,
                status: row.status,
                judges_itself: row.judges_itself,
            },
            last_heartbeat_at: row.last_heartbeat_at,
        })
    };
}

/// Writes beats and returns the agents written. Leaves out beats of an agent that is removed, is in another
/// incarnation by now, or belongs to an account that is being erased.
pub(crate) async fn write_beats(
    db: &mut PgConnection,
    beats: &[BeatRecord],
) -> Result<Vec<AgentId>, pg::Error> {
    let column = |of: fn(&BeatRecord) -> Uuid| beats.iter().map(of).collect::<Vec<_>>();
    let (agents, accounts) = (column(|b| b.agent.0), column(|b| b.account.0));
    let incarnations: Vec<i64> = beats.iter().map(|b| b.incarnation).collect();
    let times: Vec<DateTime<Utc>> = beats.iter().map(|b| b.at).collect();
    let tasks: Vec<i32> = beats.iter().map(|b| b.vitals.active_tasks).collect();
    let rates: Vec<f64> = beats.iter().map(|b| b.vitals.error_rate).collect();
    let wedged: Vec<bool> = beats.iter().map(|b| b.vitals.wedged).collect();
    let errors: Vec<String> = beats.iter().map(|b| b.vitals.sample_error.clone()).collect();
    let current: Vec<String> = beats.iter().map(|b| b.vitals.current_task.clone()).collect();
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

/// Returns the liveness of these agents; unknown ones are left out.
pub(crate) async fn find(db: &mut PgConnection, agents: &[AgentId]) -> Result<Vec<AgentLiveness>, pg::Error> {
    let ids: Vec<Uuid> = agents.iter().map(|agent| agent.0).collect();
    let agents = liveness!(
        "SELECT id, incarnation, status, judges_itself, last_heartbeat_at FROM agents WHERE id = ANY ($1)",
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(agents)
}

/// Lists online and degraded agents by id; if `after` is given, only those with a higher id.
pub(crate) async fn list_alive(
    db: &mut PgConnection,
    after: Option<AgentId>,
    limit: i64,
) -> Result<Vec<AgentLiveness>, pg::Error> {
    let agents = liveness!(
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
    Ok(agents)
}

/// Marks silent agents as offline, which begins their next incarnation, and returns those marked. Leaves out
/// an agent that is in another incarnation by now, that belongs to an account being erased, or of which any
/// replica wrote a beat at or after `heard_since`.
pub(crate) async fn mark_offline(
    db: &mut PgConnection,
    silent: &[(AgentId, i64)],
    heard_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<AgentLiveness>, pg::Error> {
    let (ids, incarnations): (Vec<Uuid>, Vec<i64>) =
        silent.iter().map(|(agent, incarnation)| (agent.0, *incarnation)).unzip();
    let agents = liveness!(
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
         SET status = 'offline', status_changed_at = $4, generation = generation + 1,
             incarnation = incarnation + 1
         FROM locked
         WHERE agents.id = locked.id AND agents.status IN ('online', 'degraded')
         RETURNING agents.id, agents.incarnation, agents.status, agents.judges_itself,
             agents.last_heartbeat_at",
        &ids,
        &incarnations,
        heard_since,
        now,
    )
    .fetch_all(db)
    .await?;
    Ok(agents)
}
