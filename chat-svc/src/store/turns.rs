//! Reads and writes of single turns. [`crate::domain::turn::next`] decides on the writes. An update checks
//! that the row is unchanged, or still running with the worker's epoch.

use std::time::Duration;

use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, ensure_affected},
    id::{AccountId, SessionId, TurnId},
};
use uuid::Uuid;

use crate::domain::turn::{Standing, Turn, TurnStatus};

/// Reads turns. `$before` is the SQL before the columns, `$last_seq` the column of the newest event's number,
/// and `$after` the SQL after them.
macro_rules! read_turns {
    ($before:literal, $last_seq:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $before + " turns.id, turns.account_id, turns.session_id, ordinal, status, cause, epoch,
                generation, attempts, barren_claims, traceparent, created_at, started_at, ended_at,
                deadline_at, " + $last_seq + $after
            $(, $argument)*
        )
        .map(|row| Turn {
            id: row.id,
            account_id: row.account_id,
            session_id: row.session_id,
            ordinal: row.ordinal,
            standing: Standing {
                status: row.status,
                epoch: row.epoch,
                generation: row.generation,
                attempts: row.attempts,
                no_progress_claims: row.barren_claims,
                started_at: row.started_at,
                ended_at: row.ended_at,
                deadline_at: row.deadline_at,
            },
            cause: row.cause,
            traceparent: row.traceparent,
            created_at: row.created_at,
            last_seq: row.last_seq,
        })
    };
}
pub(super) use read_turns;

macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        read_turns!(
            "SELECT",
            r#"coalesce((SELECT max(seq) FROM turn_events WHERE turn_id = turns.id), 0) AS "last_seq!" "#,
            $tail
            $(, $argument)*
        )
    };
}

/// Inserts a queued turn.
pub(crate) async fn insert(db: &mut PgConnection, turn: &Turn) -> Result<(), pg::Error> {
    sqlx::query!(
        "INSERT INTO turns (id, account_id, session_id, ordinal, status, traceparent, created_at, deadline_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        turn.id as TurnId,
        turn.account_id as AccountId,
        turn.session_id as SessionId,
        turn.ordinal,
        turn.standing.status as TurnStatus,
        turn.traceparent,
        turn.created_at,
        turn.standing.deadline_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds a tenant's turn.
pub(crate) async fn find(
    db: &mut PgConnection,
    account_id: AccountId,
    id: TurnId,
) -> Result<Option<Turn>, pg::Error> {
    let turn = select!("FROM turns WHERE id = $1 AND account_id = $2", id as TurnId, account_id as AccountId)
        .fetch_optional(db)
        .await?;
    Ok(turn)
}

/// Finds a tenant's turn and locks it against every change, and against the journal's writers.
pub(crate) async fn lock(
    db: &mut PgConnection,
    account_id: AccountId,
    id: TurnId,
) -> Result<Option<Turn>, pg::Error> {
    // Two statements, so that the second one sees what was committed while the first one waited for the lock.
    let locked = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM turns WHERE id = $1 AND account_id = $2 FOR NO KEY UPDATE"#,
        id as TurnId,
        account_id as AccountId,
    )
    .fetch_optional(&mut *db)
    .await?;
    match locked {
        Some(_) => find(db, account_id, id).await,
        None => Ok(None),
    }
}

/// Lists a session's turns, all or those with one status, newest first, from after `after`.
pub(crate) async fn list(
    db: &mut PgConnection,
    account_id: AccountId,
    session_id: SessionId,
    status: Option<TurnStatus>,
    after: Option<TurnId>,
    limit: i64,
) -> Result<Vec<Turn>, pg::Error> {
    let turns = select!(
        "FROM turns
         WHERE session_id = $1 AND account_id = $2
           AND ($3::uuid IS NULL OR ordinal < (SELECT ordinal FROM turns WHERE id = $3 AND session_id = $1))
           AND ($5::turn_status IS NULL OR status = $5)
         ORDER BY ordinal DESC
         LIMIT $4",
        session_id as SessionId,
        account_id as AccountId,
        after as Option<TurnId>,
        limit,
        status as Option<TurnStatus>,
    )
    .fetch_all(db)
    .await?;
    Ok(turns)
}

/// Lists the session's turns that are not final, in order.
pub(crate) async fn list_open(
    db: &mut PgConnection,
    session_id: SessionId,
) -> Result<Vec<TurnId>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: TurnId"
           FROM turns
           WHERE session_id = $1 AND status IN ('queued', 'running')
           ORDER BY ordinal"#,
        session_id as SessionId,
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Lists the turns that an erasure must end: the turns of a session, or of all sessions of an account.
pub(crate) async fn list_open_of(
    db: &mut PgConnection,
    account_id: AccountId,
    session_id: Option<SessionId>,
) -> Result<Vec<TurnId>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: TurnId"
           FROM turns
           WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND status IN ('queued', 'running')
           ORDER BY session_id, ordinal"#,
        account_id as AccountId,
        session_id as Option<SessionId>,
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Finds the session's first queued turn.
pub(crate) async fn find_next_queued(
    db: &mut PgConnection,
    session_id: SessionId,
) -> Result<Option<TurnId>, pg::Error> {
    let id = sqlx::query_scalar!(
        r#"SELECT id AS "id: TurnId"
           FROM turns
           WHERE session_id = $1 AND status = 'queued'
           ORDER BY ordinal
           LIMIT 1"#,
        session_id as SessionId,
    )
    .fetch_optional(db)
    .await?;
    Ok(id)
}

/// Writes an ending: `after` is the result of the state machine for the row `read`.
pub(crate) async fn end(
    db: &mut PgConnection,
    id: TurnId,
    read: &Standing,
    after: &Standing,
    cause: &str,
) -> Result<(), pg::Error> {
    let result = sqlx::query!(
        "UPDATE turns
         SET status = $4, cause = $5, epoch = $6, generation = $7, ended_at = $8,
             lease_owner = NULL, lease_until = NULL
         WHERE id = $1 AND generation = $2 AND epoch = $3",
        id as TurnId,
        read.generation,
        read.epoch,
        after.status as TurnStatus,
        cause,
        after.epoch,
        after.generation,
        after.ended_at,
    )
    .execute(db)
    .await?;
    ensure_affected(&result, 1)
}

/// Checks that the turn is running with `epoch`, locks its row until the transaction ends, and records
/// progress. Returns false if the turn is not running or was claimed again; the caller must then not write.
pub(crate) async fn advance(db: &mut PgConnection, id: TurnId, epoch: i64) -> Result<bool, pg::Error> {
    let result = sqlx::query!(
        "UPDATE turns
         SET barren_claims = 0, generation = generation + 1
         WHERE id = $1 AND epoch = $2 AND status = 'running'",
        id as TurnId,
        epoch,
    )
    .execute(db)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Like [`advance`], for writes that are no progress.
pub(crate) async fn hold(db: &mut PgConnection, id: TurnId, epoch: i64) -> Result<bool, pg::Error> {
    let held = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!"
           FROM turns
           WHERE id = $1 AND epoch = $2 AND status = 'running'
           FOR NO KEY UPDATE"#,
        id as TurnId,
        epoch,
    )
    .fetch_optional(db)
    .await?;
    Ok(held.is_some())
}

/// Result of a renewal. Turns that are in neither list were locked at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Leases that were renewed.
    pub kept: Vec<TurnId>,
    /// Leases that the caller no longer holds.
    pub lost: Vec<TurnId>,
}

/// Renews leases, including expired ones that were not taken over.
///
/// Locked turns are skipped, so that the renewal of all leases does not wait for one of them. Released turns
/// keep the last holder's epoch and must not be renewed: they would idle until the lease expired.
pub async fn renew(
    db: &mut PgConnection,
    held: &[(TurnId, i64)],
    ttl: Duration,
) -> Result<Renewal, pg::Error> {
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = held.iter().map(|(id, epoch)| (id.0, *epoch)).unzip();
    let kept = sqlx::query_scalar!(
        r#"WITH mine AS (
               SELECT t.id
               FROM turns t
               JOIN unnest($1::uuid[], $2::bigint[]) AS h (id, epoch) ON t.id = h.id AND t.epoch = h.epoch
               WHERE t.status = 'running' AND t.lease_owner IS NOT NULL
               FOR NO KEY UPDATE OF t SKIP LOCKED
           )
           UPDATE turns
           SET lease_until = now() + make_interval(secs => $3)
           FROM mine
           WHERE turns.id = mine.id
           RETURNING turns.id AS "id: TurnId""#,
        &ids,
        &epochs,
        ttl.as_secs_f64(),
    )
    .fetch_all(&mut *db)
    .await?;
    if kept.len() == held.len() {
        return Ok(Renewal { kept, lost: Vec::new() });
    }
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) =
        held.iter().filter(|(id, _)| !kept.contains(id)).map(|(id, epoch)| (id.0, *epoch)).unzip();
    let lost = sqlx::query_scalar!(
        r#"SELECT h.id AS "id!: TurnId"
           FROM unnest($1::uuid[], $2::bigint[]) AS h (id, epoch)
           WHERE NOT EXISTS (
               SELECT
               FROM turns t
               WHERE t.id = h.id AND t.epoch = h.epoch AND t.status = 'running' AND t.lease_owner IS NOT NULL
           )"#,
        &ids,
        &epochs,
    )
    .fetch_all(db)
    .await?;
    Ok(Renewal { kept, lost })
}

/// Hands a turn over: any worker may claim it at once. The caller's own claim no longer counts as one without
/// progress. Returns false if the turn was claimed again or is final.
pub async fn release(db: &mut PgConnection, id: TurnId, epoch: i64) -> Result<bool, pg::Error> {
    let result = sqlx::query!(
        "UPDATE turns
         SET lease_owner = NULL, lease_until = '-infinity', barren_claims = greatest(barren_claims - 1, 0),
             generation = generation + 1
         WHERE id = $1 AND epoch = $2 AND status = 'running'",
        id as TurnId,
        epoch,
    )
    .execute(db)
    .await?;
    Ok(result.rows_affected() == 1)
}
