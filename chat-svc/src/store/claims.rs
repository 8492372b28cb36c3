//! Claims of turns. One claimer task per process asks for a batch at a time.
//!
//! Both statements must change a turn as [`crate::domain::turn::next`] does for `Input::Claim`. They lock no
//! custody row: an erasure ends every turn of its subject in the transaction that freezes it, and a final
//! turn is never claimed.

use std::time::Duration;

use sqlx::PgConnection;
use svc_core::data::pg;
use uuid::Uuid;

use super::turns::read_turns;
use crate::domain::turn::{Standing, Turn};

/// Checks that Postgres answers.
pub(crate) async fn ping(db: &mut PgConnection) -> Result<(), pg::Error> {
    Ok(sqlx::Connection::ping(db).await?)
}

/// Limits of one claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Maximum turns to claim now.
    pub limit: i64,
    /// Maximum running turns of one account, in all processes. Concurrent claims may exceed it briefly.
    pub of_account: i64,
}

/// Claims queued turns with an id of at least `scan_from` that are the first open turn of their session.
///
/// The caller uses `scan_from` to skip the head of the index, where earlier claims left dead entries and
/// turns that wait for another turn of their session.
pub(crate) async fn claim_queued(
    db: &mut PgConnection,
    owner: &str,
    ttl: Duration,
    scan_from: Uuid,
    bounds: Bounds,
) -> Result<Vec<Turn>, pg::Error> {
    let turns = read_turns!(
        "WITH first AS (
             SELECT t.id, t.account_id, running
             FROM turns t
             -- Concurrent claimers do not see each other's claims, so the bound can be exceeded briefly.
             CROSS JOIN LATERAL (
                 SELECT count(*) AS running
                 FROM turns same
                 WHERE same.account_id = t.account_id AND same.status = 'running'
             ) of_account
             WHERE t.status = 'queued' AND t.id >= $3 AND running < $5
               AND NOT EXISTS (
                   SELECT
                   FROM turns earlier
                   WHERE earlier.session_id = t.session_id AND earlier.ordinal < t.ordinal
                     AND earlier.status IN ('queued', 'running')
               )
             ORDER BY t.id
             LIMIT $4
             FOR NO KEY UPDATE OF t SKIP LOCKED
         ),
         ranked AS (
             SELECT id, running + row_number() OVER (PARTITION BY account_id ORDER BY id) AS nth
             FROM first
         ),
         candidates AS (SELECT id FROM ranked WHERE nth <= $5)
         UPDATE turns
         SET status = 'running', epoch = epoch + 1, generation = generation + 1, attempts = attempts + 1,
             barren_claims = barren_claims + 1, started_at = coalesce(started_at, now()),
             lease_owner = $1, lease_until = now() + make_interval(secs => $2)
         FROM candidates
         WHERE turns.id = candidates.id AND turns.status = 'queued'
         RETURNING",
        r#"0::bigint AS "last_seq!""#,
        "",
        owner,
        ttl.as_secs_f64(),
        scan_from,
        bounds.limit,
        bounds.of_account,
    )
    .fetch_all(db)
    .await?;
    Ok(turns)
}

/// Takes over at most `limit` turns that were handed over or, with `expired`, with an expired lease; the
/// oldest lease first. A handed-over turn has the lease end `-infinity`, so one range of the index finds
/// both.
pub async fn take_over(
    db: &mut PgConnection,
    owner: &str,
    ttl: Duration,
    expired: bool,
    limit: i64,
) -> Result<Vec<Turn>, pg::Error> {
    let turns = read_turns!(
        "WITH candidates AS (
             SELECT id
             FROM turns
             WHERE status = 'running' AND lease_until < CASE WHEN $3 THEN now() ELSE 'epoch'::timestamptz END
             ORDER BY lease_until
             LIMIT $4
             FOR NO KEY UPDATE SKIP LOCKED
         )
         UPDATE turns
         SET epoch = epoch + 1, generation = generation + 1, attempts = attempts + 1,
             barren_claims = barren_claims + 1, started_at = coalesce(started_at, now()),
             lease_owner = $1, lease_until = now() + make_interval(secs => $2)
         FROM candidates
         WHERE turns.id = candidates.id AND turns.status = 'running'
         RETURNING",
        r#"0::bigint AS "last_seq!""#,
        "",
        owner,
        ttl.as_secs_f64(),
        expired,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(turns)
}
