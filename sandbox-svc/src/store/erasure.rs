//! What an erasure ends, deletes and counts: a session's rows, or all of an account's. What waits in the pool is
//! nobody's and is never among them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::pg,
    id::{AccountId, SandboxId, SessionId},
};
use uuid::Uuid;

use crate::domain::VolumeId;

/// A kind of rows that an erasure deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keyed calls with their output.
    Execs,
    /// Sandboxes.
    Sandboxes,
    /// Workspaces.
    Volumes,
    /// Keys of requests.
    IdempotencyKeys,
}

impl Kind {
    /// Every kind, in the order in which they go.
    pub const ALL: [Self; 4] = [Self::Execs, Self::Sandboxes, Self::Volumes, Self::IdempotencyKeys];

    /// Its name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Execs => "sandbox.execs",
            Self::Sandboxes => "sandbox.sandboxes",
            Self::Volumes => "sandbox.volumes",
            Self::IdempotencyKeys => "sandbox.idempotency_keys",
        }
    }
}

/// Whose rows.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The tenant.
    pub account: AccountId,
    /// One session, or all of them.
    pub session: Option<SessionId>,
}

impl Scope {
    fn ids(self) -> (Uuid, Option<Uuid>) {
        (self.account.0, self.session.map(|session| session.0))
    }
}

/// Whether there is anything of the subject.
///
/// # Errors
/// [`pg::Error`].
pub async fn exists(db: &mut PgConnection, scope: Scope) -> Result<bool, pg::Error> {
    let (account, session) = scope.ids();
    let known = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM sandboxes WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2))
               OR EXISTS (SELECT FROM volumes WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2))
               AS "known!""#,
        account,
        session,
    )
    .fetch_one(db)
    .await?;
    Ok(known)
}

/// Sandboxes of the subject that are not final, oldest first: the order in which they are locked.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_unfinished(db: &mut PgConnection, scope: Scope) -> Result<Vec<SandboxId>, pg::Error> {
    let (account, session) = scope.ids();
    let ids = sqlx::query_scalar!(
        "SELECT id FROM sandboxes
          WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state NOT IN ('gone', 'failed')
          ORDER BY id",
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(SandboxId).collect())
}

/// Run directories that sandboxes of the subject ever had, with their engines.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_run_dirs(db: &mut PgConnection, scope: Scope) -> Result<Vec<(String, String)>, pg::Error> {
    let (account, session) = scope.ids();
    let rows = sqlx::query!(
        r#"SELECT engine_id, container_run_dir AS "run_dir!" FROM sandboxes
            WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND container_run_dir IS NOT NULL
            ORDER BY id"#,
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.engine_id, row.run_dir)).collect())
}

/// Workspaces of the subject whose absence is not confirmed, with their engines.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_volumes(db: &mut PgConnection, scope: Scope) -> Result<Vec<(VolumeId, String)>, pg::Error> {
    let (account, session) = scope.ids();
    let rows = sqlx::query!(
        "SELECT id, engine_id FROM volumes
          WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state <> 'gone'
          ORDER BY id",
        account,
        session,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (VolumeId(row.id), row.engine_id)).collect())
}

/// Commits workspaces of the subject to removal, but for those that a sandbox still has.
///
/// # Errors
/// [`pg::Error`].
pub async fn begin_removal(db: &mut PgConnection, scope: Scope) -> Result<(), pg::Error> {
    let (account, session) = scope.ids();
    sqlx::query!(
        "UPDATE volumes SET state = 'removing'
          WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state = 'live'
            AND NOT EXISTS (SELECT FROM sandboxes s
                             WHERE s.volume_id = volumes.id AND s.state NOT IN ('gone', 'failed'))",
        account,
        session,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that the absence of the subject's workspaces was confirmed; answers those of which it was not before.
///
/// # Errors
/// [`pg::Error`].
pub async fn confirm_removal(
    db: &mut PgConnection,
    scope: Scope,
    now: DateTime<Utc>,
) -> Result<Vec<VolumeId>, pg::Error> {
    let (account, session) = scope.ids();
    let ids = sqlx::query_scalar!(
        "UPDATE volumes SET state = 'gone', ended_at = $3
          WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) AND state = 'removing'
      RETURNING id",
        account,
        session,
        now,
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(VolumeId).collect())
}

/// Deletes up to `limit` rows of `kind`; says how many those were.
///
/// # Errors
/// [`pg::Error`].
pub async fn delete_some(
    db: &mut PgConnection,
    kind: Kind,
    scope: Scope,
    limit: i64,
) -> Result<u64, pg::Error> {
    let (account, session) = scope.ids();
    let done = match kind {
        Kind::Execs => {
            sqlx::query!(
                "DELETE FROM execs WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM execs
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Sandboxes => {
            sqlx::query!(
                "DELETE FROM sandboxes WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM sandboxes
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)
                        AND state IN ('gone', 'failed') LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::Volumes => {
            sqlx::query!(
                "DELETE FROM volumes WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM volumes
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)
                        AND state = 'gone' LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
        Kind::IdempotencyKeys => {
            sqlx::query!(
                "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM idempotency_keys
                      WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2) LIMIT $3))",
                account,
                session,
                limit,
            )
            .execute(db)
            .await?
        }
    };
    Ok(done.rows_affected())
}

/// What is there, kind by kind, in the order of [`Kind::ALL`], and when it was read.
///
/// # Errors
/// [`pg::Error`].
pub async fn count(
    db: &mut PgConnection,
    scope: Scope,
) -> Result<([(Kind, i64); 4], DateTime<Utc>), pg::Error> {
    let (account, session) = scope.ids();
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM execs
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "execs!",
                  (SELECT count(*) FROM sandboxes
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "sandboxes!",
                  (SELECT count(*) FROM volumes
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "volumes!",
                  (SELECT count(*) FROM idempotency_keys
                    WHERE account_id = $1 AND ($2::uuid IS NULL OR session_id = $2)) AS "keys!",
                  clock_timestamp() AS "at!""#,
        account,
        session,
    )
    .fetch_one(db)
    .await?;
    let counts = [
        (Kind::Execs, row.execs),
        (Kind::Sandboxes, row.sandboxes),
        (Kind::Volumes, row.volumes),
        (Kind::IdempotencyKeys, row.keys),
    ];
    Ok((counts, row.at))
}

/// Subjects that are erased and of which something is left: none, ever.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_erased_with_rows(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT c.subject_id AS "id: Uuid" FROM custody c
            WHERE c.state = 'erased'
              AND (EXISTS (SELECT FROM sandboxes s WHERE c.kind = 'session' AND s.session_id = c.subject_id)
                   OR EXISTS (SELECT FROM sandboxes s WHERE c.kind = 'account' AND s.account_id = c.subject_id)
                   OR EXISTS (SELECT FROM volumes v WHERE c.kind = 'session' AND v.session_id = c.subject_id)
                   OR EXISTS (SELECT FROM volumes v WHERE c.kind = 'account' AND v.account_id = c.subject_id)
                   OR EXISTS (SELECT FROM execs e WHERE c.kind = 'session' AND e.session_id = c.subject_id))
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Sandboxes that live on although their subject is being erased: none, ever.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_live_of_erasing(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT s.id AS "id: Uuid" FROM sandboxes s
             JOIN custody c ON (c.kind = 'session' AND c.subject_id = s.session_id)
                            OR (c.kind = 'account' AND c.subject_id = s.account_id)
            WHERE c.state IN ('erasing', 'erased') AND s.state IN ('requested', 'creating', 'running')
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}

/// Workspaces that are let go while a sandbox still has them: none, ever.
///
/// # Errors
/// [`pg::Error`].
pub async fn list_removed_in_use(db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
    let ids = sqlx::query_scalar!(
        r#"SELECT v.id AS "id: Uuid" FROM volumes v
             JOIN sandboxes s ON s.volume_id = v.id
            WHERE v.state <> 'live' AND s.state NOT IN ('gone', 'failed')
            LIMIT $1"#,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(ids)
}
