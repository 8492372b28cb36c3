//! Lanes: conversations with agents, each leased by the worker that delivers its messages.
//!
//! `ready_at` is the time from which a lane may be claimed. It is NULL while the lane has no message to
//! deliver, and after a worker that claimed the lane found the agent not reachable; the transaction that
//! makes the agent reachable sets it again ([`wake`]).

use std::time::Duration;

use sqlx::PgConnection;
use svc_core::{
    data::{
        lease::ItemLease,
        pg::{self, ensure_affected},
    },
    id::{AccountId, AgentId},
    item_lease,
};
use uuid::Uuid;

use crate::domain::{
    agent::DeliveryMode,
    lane::{ClaimLimits, Lane},
    message::NewMessage,
};

item_lease! {
    pub struct LaneLeases: "relay_lanes", "id"
}

/// Appends a message to its lane, which is created if it is new; returns the lane and the message's number in
/// it.
pub(crate) async fn append(
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
             -- A lane with pending messages is ready already, or its agent is not reachable.
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

/// Claims ready lanes of push agents, the longest ready first. A lane with an expired lease is claimed only
/// if `expired`. Lanes of an account that is being erased are not claimed.
pub(crate) async fn claim(
    db: &mut PgConnection,
    replica: &str,
    ttl: Duration,
    expired: bool,
    limits: ClaimLimits,
) -> Result<Vec<Lane>, pg::Error> {
    let rows = sqlx::query!(
        "WITH ready AS (
             SELECT relay_lanes.id, target_id, relay_lanes.account_id, ready_at, held, held_of_account
             FROM relay_lanes
             -- Concurrent claims do not see each other, so the limits can be exceeded briefly.
             CROSS JOIN LATERAL (
                 SELECT count(*) AS held
                 FROM relay_lanes AS claimed
                 WHERE claimed.target_id = relay_lanes.target_id
                   AND claimed.lease_owner IS NOT NULL AND claimed.lease_until >= now()
             ) AS of_agent
             CROSS JOIN LATERAL (
                 SELECT count(*) AS held_of_account
                 FROM relay_lanes AS claimed
                 WHERE claimed.account_id = relay_lanes.account_id
                   AND claimed.lease_owner IS NOT NULL AND claimed.lease_until >= now()
             ) AS of_account
             WHERE mode = 'push' AND ready_at <= now() AND held < $5 AND held_of_account < $6
               AND (lease_until IS NULL OR ($3 AND lease_until < now()))
               AND EXISTS (
                   SELECT
                   FROM custody
                   WHERE kind = 'account' AND subject_id = relay_lanes.account_id AND state = 'live'
               )
             ORDER BY ready_at
             -- More lanes than are claimed, because one agent may have many of those that are ready longest.
             LIMIT 4 * $4::bigint
             FOR UPDATE OF relay_lanes SKIP LOCKED
         ), ranked AS (
             SELECT id, account_id, ready_at, held_of_account,
                 held + row_number() OVER (PARTITION BY target_id ORDER BY ready_at, id) AS nth
             FROM ready
         ), fair AS (
             SELECT id, ready_at,
                 held_of_account
                     + row_number() OVER (PARTITION BY account_id ORDER BY ready_at, id) AS nth_of_account
             FROM ranked
             WHERE nth <= $5
         ), taken AS (
             SELECT id FROM fair WHERE nth_of_account <= $6 ORDER BY ready_at LIMIT $4
         )
         UPDATE relay_lanes
         SET epoch = epoch + 1, lease_owner = $1, lease_until = now() + make_interval(secs => $2)
         WHERE id IN (SELECT id FROM taken)
         RETURNING id, epoch, account_id, target_id",
        replica,
        ttl.as_secs_f64(),
        expired,
        limits.lanes,
        limits.per_agent,
        limits.per_account,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Lane {
            lease: ItemLease { id: row.id, epoch: row.epoch, owner: replica.to_owned() },
            account: row.account_id,
            target: row.target_id,
        })
        .collect())
}

/// Locks a claimed lane until the transaction ends.
///
/// # Errors
/// [`pg::Error::Fenced`] if another worker claimed the lane.
pub(crate) async fn lock_claimed(db: &mut PgConnection, lease: &ItemLease) -> Result<(), pg::Error> {
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

/// Locks a lane, claimed or not, until the transaction ends.
pub(crate) async fn lock(db: &mut PgConnection, lane: Uuid) -> Result<(), pg::Error> {
    sqlx::query_scalar!("SELECT id FROM relay_lanes WHERE id = $1 FOR UPDATE", lane)
        .fetch_optional(db)
        .await?;
    Ok(())
}

/// Subtracts `ended` from the number of messages that a lane has pending; the lane stays claimed.
pub(crate) async fn count_ended(
    db: &mut PgConnection,
    lease: &ItemLease,
    ended: i32,
) -> Result<(), pg::Error> {
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

/// Releases a lane and subtracts `ended` from the number of its pending messages. If messages are left, the
/// lane becomes ready when `after` has passed; with `None` it waits until [`wake`].
///
/// # Errors
/// [`pg::Error::Fenced`] if another worker claimed the lane.
pub(crate) async fn release(
    db: &mut PgConnection,
    lease: &ItemLease,
    ended: i32,
    after: Option<Duration>,
) -> Result<(), pg::Error> {
    let done = sqlx::query!(
        "UPDATE relay_lanes
         SET pending = pending - $3,
             ready_at = CASE WHEN pending > $3 THEN now() + make_interval(secs => $4) END,
             lease_owner = NULL, lease_until = NULL
         WHERE id = $1 AND epoch = $2",
        lease.id,
        lease.epoch,
        ended,
        after.map(|after| after.as_secs_f64()),
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1).map_err(|_| pg::Error::Fenced("relay_lanes".into()))
}

/// Lowers a lane's number of pending messages by one, after a message was canceled; without any left the lane
/// is no longer ready. Checks no epoch, because the caller has locked the lane's row.
pub(crate) async fn count_canceled(db: &mut PgConnection, lane: Uuid) -> Result<(), pg::Error> {
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

/// Makes the lanes of an agent that have pending messages ready now, also those that wait for a retry. Called
/// when the agent has become reachable. Returns the number of lanes changed.
pub(crate) async fn wake(db: &mut PgConnection, target: AgentId) -> Result<u64, pg::Error> {
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

/// Changes the delivery mode of an agent's lanes and ends their leases, so that the workers that hold them
/// cannot write any more; returns the number of lanes.
pub(crate) async fn change_mode(
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

/// Empties the lanes of an agent that is removed and ends their leases, so that the workers that hold them
/// cannot write any more.
pub(crate) async fn close(db: &mut PgConnection, target: AgentId) -> Result<(), pg::Error> {
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

/// Deletes up to `limit` lanes without messages.
pub(crate) async fn delete_idle(db: &mut PgConnection, limit: i64) -> Result<u64, pg::Error> {
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
