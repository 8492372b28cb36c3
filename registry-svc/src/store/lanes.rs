//! Lanes: conversations with agents, leased by whoever delivers in them.
//!
//! `ready_at` says when a lane may be worked on. It is empty while there is nothing to do, and while its agent
//! cannot be reached: whoever brings the agent back ([`wake`]) sets it again, in the transaction in which that
//! happens.

use std::time::Duration;

use sqlx::PgConnection;
use svc_core::{
    data::{
        lease::{ItemLease, item},
        pg::{self, ensure_affected},
    },
    id::{AccountId, AgentId},
    item_lease,
};
use uuid::Uuid;

use crate::domain::{agent::DeliveryMode, delivery::NewMessage};

item_lease! {
    /// Leases of lanes.
    pub struct LaneLeases: "relay_lanes", "id"
}

/// A lane that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Its lease.
    pub lease: ItemLease,
    /// The tenant.
    pub account: AccountId,
    /// The agent.
    pub target: AgentId,
}

/// Gives a message its place: the lane, made if it is new, and the number in it.
pub async fn enter(
    db: &mut PgConnection,
    lane_id: Uuid,
    message: &NewMessage,
    mode: DeliveryMode,
) -> Result<(Uuid, i64), pg::Error> {
    let row = sqlx::query!(
        "INSERT INTO relay_lanes (id, account_id, target_id, key, mode, last_seq, pending, ready_at)
         VALUES ($1, $2, $3, $4, $5, 1, 1, now())
         ON CONFLICT (target_id, key) DO UPDATE
         SET last_seq = relay_lanes.last_seq + 1, pending = relay_lanes.pending + 1,
             -- One that others wait in is ready already, or its agent is away.
             ready_at = CASE WHEN relay_lanes.pending = 0 THEN now() ELSE relay_lanes.ready_at END
         RETURNING id, last_seq",
        lane_id,
        message.account_id as AccountId,
        message.target_id as AgentId,
        message.lane_key(),
        mode as DeliveryMode,
    )
    .fetch_one(db)
    .await?;
    Ok((row.id, row.last_seq))
}

/// How many lanes are taken, and how many may be held.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Taken now, at most.
    pub limit: i64,
    /// Held of one agent.
    pub of_agent: i64,
    /// Held of one account.
    pub of_account: i64,
}

/// Takes ready lanes of agents that are called, the longest ready first, within `bounds`. A lane whose holder's lease ran out is taken only if `lapsed` ones may be; one of an
/// account that is being erased, never.
pub async fn claim(
    db: &mut PgConnection,
    owner: &str,
    ttl: Duration,
    lapsed: bool,
    bounds: Bounds,
) -> Result<Vec<Lane>, pg::Error> {
    let rows = sqlx::query!(
        "WITH ready AS (
             SELECT relay_lanes.id, target_id, relay_lanes.account_id, ready_at, held, held_of_account
             FROM relay_lanes
             -- Of those that two processes take at the same time, neither sees the other's.
             CROSS JOIN LATERAL (
                 SELECT count(*) AS held
                 FROM relay_lanes AS others
                 WHERE others.target_id = relay_lanes.target_id
                   AND others.lease_owner IS NOT NULL AND others.lease_until >= now()
             ) AS of_agent
             CROSS JOIN LATERAL (
                 SELECT count(*) AS held_of_account
                 FROM relay_lanes AS others
                 WHERE others.account_id = relay_lanes.account_id
                   AND others.lease_owner IS NOT NULL AND others.lease_until >= now()
             ) AS of_account
             WHERE mode = 'push' AND ready_at <= now() AND held < $5 AND held_of_account < $6
               AND (lease_until IS NULL OR ($3 AND lease_until < now()))
               AND EXISTS (
                   SELECT
                   FROM custody
                   WHERE kind = 'account' AND subject_id = relay_lanes.account_id AND state = 'live'
               )
             ORDER BY ready_at
             -- More than are taken, since an agent may have many of the longest ready ones.
             LIMIT 4 * $4::bigint
             FOR UPDATE OF relay_lanes SKIP LOCKED
         ), ranked AS (
             SELECT id, account_id, ready_at, held_of_account,
                 held + row_number() OVER (PARTITION BY target_id ORDER BY ready_at, id) AS nth
             FROM ready
         ), fair AS (
             SELECT id, ready_at,
                 held_of_account + row_number() OVER (PARTITION BY account_id ORDER BY ready_at, id) AS nth_of_account
             FROM ranked
             WHERE nth <= $5
         ), taken AS (
             SELECT id FROM fair WHERE nth_of_account <= $6 ORDER BY ready_at LIMIT $4
         )
         UPDATE relay_lanes
         SET epoch = epoch + 1, lease_owner = $1, lease_until = now() + make_interval(secs => $2)
         WHERE id IN (SELECT id FROM taken)
         RETURNING id, epoch, account_id, target_id",
        owner,
        ttl.as_secs_f64(),
        lapsed,
        bounds.limit,
        bounds.of_agent,
        bounds.of_account,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Lane {
            lease: ItemLease { id: row.id, epoch: row.epoch, owner: owner.to_owned() },
            account: row.account_id,
            target: row.target_id,
        })
        .collect())
}

/// Locks a lane that is held, until the transaction ends.
///
/// # Errors
/// [`pg::Error::Fenced`] if somebody took it.
pub async fn lock(db: &mut PgConnection, lease: &ItemLease) -> Result<(), pg::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM relay_lanes WHERE id = $1 AND epoch = $2 FOR UPDATE",
        lease.id,
        lease.epoch,
    )
    .fetch_optional(db)
    .await?
    .map(drop)
    .ok_or(pg::Error::Fenced("relay_lanes".into()))
}

/// Locks a lane whoever holds it, until the transaction ends.
pub async fn lock_any(db: &mut PgConnection, lane: Uuid) -> Result<(), pg::Error> {
    sqlx::query_scalar!("SELECT id FROM relay_lanes WHERE id = $1 FOR UPDATE", lane)
        .fetch_optional(db)
        .await?;
    Ok(())
}

/// Prolongs a lease.
///
/// # Errors
/// [`pg::Error::Fenced`] if somebody took the lane.
pub async fn renew(db: &mut PgConnection, lease: &ItemLease, ttl: Duration) -> Result<(), pg::Error> {
    item::renew::<LaneLeases>(db, lease, ttl).await
}

/// So many messages of a lane ended that its holder goes on with.
pub async fn ended(db: &mut PgConnection, lease: &ItemLease, ended: i32) -> Result<(), pg::Error> {
    if ended == 0 {
        return Ok(());
    }
    let done = sqlx::query!(
        "UPDATE relay_lanes SET pending = pending - $3 WHERE id = $1 AND epoch = $2",
        lease.id,
        lease.epoch,
        ended,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1).map_err(|_| pg::Error::Fenced("relay_lanes".into()))
}

/// Gives a lane back: so many of its messages ended, and if others wait it is ready `after` that time. Says whether
/// others wait.
pub async fn give_back(
    db: &mut PgConnection,
    lease: &ItemLease,
    ended: i32,
    after: Duration,
) -> Result<bool, pg::Error> {
    let waits = sqlx::query_scalar!(
        r#"UPDATE relay_lanes
         SET pending = pending - $3,
             ready_at = CASE WHEN pending > $3 THEN now() + make_interval(secs => $4) END,
             lease_owner = NULL, lease_until = NULL
         WHERE id = $1 AND epoch = $2
         RETURNING pending > 0 AS "waits!""#,
        lease.id,
        lease.epoch,
        ended,
        after.as_secs_f64(),
    )
    .fetch_optional(db)
    .await?;
    waits.ok_or(pg::Error::Fenced("relay_lanes".into()))
}

/// Gives a lane back whose agent is away: it waits for [`wake`].
pub async fn park(db: &mut PgConnection, lease: &ItemLease, ended: i32) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET pending = pending - $3, ready_at = NULL, lease_owner = NULL, lease_until = NULL
         WHERE id = $1 AND epoch = $2",
        lease.id,
        lease.epoch,
        ended,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1).map_err(|_| pg::Error::Fenced("relay_lanes".into()))
}

/// One message of a lane ended without its holder, as by being canceled.
pub async fn leave(db: &mut PgConnection, lane: Uuid) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET pending = pending - 1, ready_at = CASE WHEN pending > 1 THEN ready_at END
         WHERE id = $1",
        lane,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// An agent can be reached again: its lanes go on, also those that wait before the next attempt.
pub async fn wake(db: &mut PgConnection, target: AgentId) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET ready_at = now()
         WHERE target_id = $1 AND pending > 0 AND (ready_at IS NULL OR ready_at > now())",
        target as AgentId,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// An agent gets its messages in another way from now on: whoever works on its lanes in the old way is fenced out.
pub async fn change_mode(
    db: &mut PgConnection,
    target: AgentId,
    mode: DeliveryMode,
) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET mode = $2, epoch = epoch + 1, lease_owner = NULL, lease_until = NULL
         WHERE target_id = $1 AND mode <> $2",
        target as AgentId,
        mode as DeliveryMode,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// An agent is removed: nothing waits for it any more, and whoever works on its lanes is fenced out.
pub async fn close(db: &mut PgConnection, target: AgentId) -> Result<(), pg::Error> {
    sqlx::query!(
        "UPDATE relay_lanes
         SET pending = 0, ready_at = NULL, epoch = epoch + 1, lease_owner = NULL, lease_until = NULL
         WHERE target_id = $1",
        target as AgentId,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Fences everybody out who works on an account's lanes.
pub async fn fence(db: &mut PgConnection, account: AccountId) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET epoch = epoch + 1, lease_owner = NULL, lease_until = NULL
         WHERE account_id = $1 AND lease_owner IS NOT NULL",
        account as AccountId,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes up to `limit` lanes in which nothing is left.
pub async fn delete_idle(db: &mut PgConnection, limit: i64) -> Result<u64, pg::Error> {
    let done = sqlx::query!(
        "DELETE FROM relay_lanes
         WHERE id IN (
             SELECT id
             FROM relay_lanes
             WHERE pending = 0
               AND NOT EXISTS (SELECT FROM relay_messages WHERE lane_id = relay_lanes.id)
             ORDER BY id
             LIMIT $1
             FOR UPDATE SKIP LOCKED
         )
         AND pending = 0",
        limit,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
