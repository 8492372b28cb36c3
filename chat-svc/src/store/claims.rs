//! Claims: how workers get turns. One claimer task a process asks for a batch at a time.
//!
//! Both statements write what [`crate::domain::turn::next`] says for `Input::Claim`. They need no custody row:
//! an erasure ends every turn of its subject in the transaction that freezes it, and what is final is never
//! claimed.

use std::time::Duration;

use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SessionId, TurnId},
};
use uuid::Uuid;

use super::turns::{Turn, TurnRow};

/// Asks Postgres for a sign of life.
///
/// # Errors
/// [`pg::Error`] if there is none.
pub async fn ping(db: &mut PgConnection) -> Result<(), pg::Error> {
    Ok(sqlx::Connection::ping(db).await?)
}

/// How many turns are taken, and how many of one account may run.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Taken now, at most.
    pub limit: i64,
    /// Running of one account, whoever runs them.
    pub of_account: i64,
}

/// Takes queued turns from `floor` on that are the first open turn of their session, within `bounds`.
///
/// `floor` lets the walk skip what earlier walks left behind at the head of the index: dead entries, and turns
/// that wait for another of their session.
pub async fn claim_queued(
    db: &mut PgConnection,
    owner: &str,
    ttl: Duration,
    floor: Uuid,
    bounds: Bounds,
) -> Result<Vec<Turn>, pg::Error> {
    let rows = sqlx::query_as!(
        TurnRow,
        r#"WITH first AS (
               SELECT t.id, t.account_id, running FROM turns t
                -- Of those that two processes take at the same time, neither sees the other's.
                CROSS JOIN LATERAL (SELECT count(*) AS running FROM turns others
                                     WHERE others.account_id = t.account_id AND others.status = 'running') of_account
                WHERE t.status = 'queued' AND t.id >= $3 AND running < $5
                  AND NOT EXISTS (SELECT FROM turns earlier
                                   WHERE earlier.session_id = t.session_id AND earlier.ordinal < t.ordinal
                                     AND earlier.status IN ('queued', 'running'))
                ORDER BY t.id
                LIMIT $4
                  FOR NO KEY UPDATE OF t SKIP LOCKED),
           ranked AS (
               SELECT id, running + row_number() OVER (PARTITION BY account_id ORDER BY id) AS nth FROM first),
           candidates AS (SELECT id FROM ranked WHERE nth <= $5)
           UPDATE turns
              SET status = 'running', epoch = epoch + 1, generation = generation + 1, attempts = attempts + 1,
                  barren_claims = barren_claims + 1, started_at = coalesce(started_at, now()),
                  lease_owner = $1, lease_until = now() + make_interval(secs => $2)
             FROM candidates
            WHERE turns.id = candidates.id AND turns.status = 'queued'
        RETURNING turns.id AS "id: TurnId", turns.account_id AS "account_id: AccountId",
                  turns.session_id AS "session_id: SessionId", ordinal, status, cause, epoch, generation, attempts,
                  barren_claims, traceparent, created_at, started_at, ended_at, deadline_at, 0::bigint AS "last_seq!""#,
        owner,
        ttl.as_secs_f64(),
        floor,
        bounds.limit,
        bounds.of_account,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Takes over up to `limit` turns that were handed over or, if `expired`, whose lease ran out; longest first. What was
/// handed over has no time left at all, so one range of the index finds both.
pub async fn take_over(
    db: &mut PgConnection,
    owner: &str,
    ttl: Duration,
    expired: bool,
    limit: i64,
) -> Result<Vec<Turn>, pg::Error> {
    let rows = sqlx::query_as!(
        TurnRow,
        r#"WITH candidates AS (
               SELECT id FROM turns
                WHERE status = 'running' AND lease_until < CASE WHEN $3 THEN now() ELSE 'epoch'::timestamptz END
                ORDER BY lease_until
                LIMIT $4
                  FOR NO KEY UPDATE SKIP LOCKED)
           UPDATE turns
              SET epoch = epoch + 1, generation = generation + 1, attempts = attempts + 1,
                  barren_claims = barren_claims + 1, started_at = coalesce(started_at, now()),
                  lease_owner = $1, lease_until = now() + make_interval(secs => $2)
             FROM candidates
            WHERE turns.id = candidates.id AND turns.status = 'running'
        RETURNING turns.id AS "id: TurnId", turns.account_id AS "account_id: AccountId",
                  turns.session_id AS "session_id: SessionId", ordinal, status, cause, epoch, generation, attempts,
                  barren_claims, traceparent, created_at, started_at, ended_at, deadline_at, 0::bigint AS "last_seq!""#,
        owner,
        ttl.as_secs_f64(),
        expired,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}
