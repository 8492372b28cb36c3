//! Stores and reads jobs. Only [`save`] changes their state.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::{
        lease::ItemLease,
        pg::{self, ensure_affected},
    },
    id::{AccountId, PurgeId},
    subject::{Subject, SubjectHash, SubjectKind},
};
use uuid::Uuid;

use super::sha256;
use crate::domain::{
    custodian::Custodian,
    job::{Cause, Job, JobFilter, Phase, Record, State, StateLabel},
    trigger::Trigger,
};

mod state;

pub use self::state::{from_columns, to_columns};

const TABLE: &str = "purge_jobs";

/// An accepted job to be stored.
#[derive(Debug)]
pub struct NewJob<'a> {
    pub purge_id: PurgeId,
    pub subject: Subject,
    pub trigger: Trigger,
    /// The principal that asked.
    pub requested_by: &'a str,
    pub record: Record,
    /// Trace of the request.
    pub cause_traceparent: Option<&'a str>,
    pub created_at: DateTime<Utc>,
}

/// Selects jobs, each as its own `Result`, because a row that this program cannot read must not hide the
/// other rows; `$tail` is the rest of the statement after FROM.
macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            "SELECT purge_id, account_id, subject_kind, subject_id, subject_hash, trigger, requested_by,
                    state, phase, cause, waits_for, attempts, rounds, giving_up, next_attempt_at,
                    generation, cause_traceparent, traceparent, created_at, committed_at, epoch
             FROM purge_jobs " + $tail
            $(, $argument)*
        )
        .map(|row| {
            let bad = |column, problem| pg::Error::inconsistent(TABLE, column, row.purge_id, problem);
            let count = |column, value: i32| u32::try_from(value).map_err(|_| bad(column, "is negative"));
            let account = row.account_id.map(AccountId);
            let cause = row.cause.as_deref().map(|name| Cause::from_name(name).ok_or(name)).transpose();
            let waits_for = row.waits_for.as_deref().map(|name| Custodian::from_service(name).ok_or(name));
            Ok(Job {
                purge_id: PurgeId(row.purge_id),
                account,
                kind: row.subject_kind,
                subject: row
                    .subject_id
                    .zip(account)
                    .map(|(id, account)| Subject::new(row.subject_kind, id, account)),
                subject_hash: SubjectHash(sha256(TABLE, "subject_hash", row.purge_id, &row.subject_hash)?),
                trigger: row.trigger,
                record: Record {
                    state: from_columns(row.state, row.phase)
                        .ok_or_else(|| bad("phase", "contradicts the state"))?,
                    cause: cause.map_err(|_| bad("cause", "is no cause"))?,
                    attempts: count("attempts", row.attempts)?,
                    rounds: count("rounds", row.rounds)?,
                    canceling: row.giving_up,
                    next_attempt_at: row.next_attempt_at,
                    committed_at: row.committed_at,
                    generation: row.generation,
                },
                waits_for: waits_for.transpose().map_err(|_| bad("waits_for", "is no custodian"))?,
                requested_by: row.requested_by,
                cause_traceparent: row.cause_traceparent,
                traceparent: row.traceparent,
                created_at: row.created_at,
                epoch: row.epoch,
            })
        })
    };
}

/// Stores a job unless its subject has one that is not thawed. Its epochs are higher than those of the
/// subject's earlier jobs, because custodians refuse a lower epoch. Returns whether it was stored.
pub async fn insert(db: &mut PgConnection, job: &NewJob<'_>) -> pg::Result<bool> {
    let hash = job.subject.hash();
    let (state, phase) = to_columns(job.record.state);
    let done = sqlx::query!(
        "INSERT INTO purge_jobs
             (purge_id, account_id, subject_kind, subject_id, subject_hash, trigger, priority, requested_by,
              state, phase, next_attempt_at, generation, cause_traceparent, created_at, epoch)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, coalesce(max(epoch), 0)
         FROM purge_jobs
         WHERE subject_hash = $5
         ON CONFLICT (subject_kind, subject_hash) WHERE state <> 'thawed' DO NOTHING",
        job.purge_id.0,
        job.subject.account().0,
        job.subject.kind() as SubjectKind,
        job.subject.id(),
        &hash.0[..],
        job.trigger as Trigger,
        job.trigger.priority(),
        job.requested_by,
        state as StateLabel,
        phase as Option<Phase>,
        job.record.next_attempt_at,
        job.record.generation,
        job.cause_traceparent,
        job.created_at,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Finds the subject's job; a thawed one does not count.
pub async fn find_by_subject(
    db: &mut PgConnection,
    account: AccountId,
    subject: SubjectHash,
) -> pg::Result<Option<Job>> {
    let job = select!(
        "WHERE account_id = $1 AND subject_hash = $2 AND state <> 'thawed'",
        account.0,
        &subject.0[..]
    )
    .fetch_optional(db)
    .await?;
    job.transpose()
}

/// Finds a job of this account, or of any account if none is given.
pub async fn find(
    db: &mut PgConnection,
    account: Option<AccountId>,
    purge_id: PurgeId,
) -> pg::Result<Option<Job>> {
    let job = select!(
        "WHERE purge_id = $1 AND ($2::uuid IS NULL OR account_id = $2)",
        purge_id.0,
        account.map(|account| account.0)
    )
    .fetch_optional(db)
    .await?;
    job.transpose()
}

/// Finds a job as [`find`] does, and locks it until the transaction ends.
pub async fn lock(
    db: &mut PgConnection,
    account: Option<AccountId>,
    purge_id: PurgeId,
) -> pg::Result<Option<Job>> {
    let job = select!(
        "WHERE purge_id = $1 AND ($2::uuid IS NULL OR account_id = $2) FOR UPDATE",
        purge_id.0,
        account.map(|account| account.0)
    )
    .fetch_optional(db)
    .await?;
    job.transpose()
}

/// Lists the jobs of an account, newest first; if `after` is given, only those older than that job.
pub async fn list(
    db: &mut PgConnection,
    account: AccountId,
    filter: &JobFilter,
    after: Option<PurgeId>,
    limit: i64,
) -> pg::Result<Vec<Job>> {
    // Filters by hash, because a committed job no longer has the session's id.
    let subject = filter.session.map(|session| SubjectHash::of(SubjectKind::Session.name(), session.0));
    let jobs = select!(
        "WHERE account_id = $1
               AND ($2::uuid IS NULL OR purge_id < $2)
               AND ($3::purge_state IS NULL OR state = $3)
               AND ($4::bytea IS NULL OR subject_hash = $4)
             ORDER BY purge_id DESC
             LIMIT $5",
        account.0,
        after.map(|after| after.0),
        filter.state as Option<StateLabel>,
        subject.as_ref().map(|hash| &hash.0[..]),
        limit
    )
    .fetch_all(db)
    .await?;
    jobs.into_iter().collect()
}

/// Reads jobs in the order of their urgency, each as its own `Result`: a row that this program cannot read
/// does not hide the other jobs.
pub async fn by_urgency(db: &mut PgConnection, purges: &[Uuid]) -> pg::Result<Vec<pg::Result<Job>>> {
    let jobs = select!("WHERE purge_id = ANY ($1) ORDER BY priority, next_attempt_at, purge_id", purges)
        .fetch_all(db)
        .await?;
    Ok(jobs)
}

/// Reads the job of a lease again; `None` if another worker has taken it.
pub async fn reread(db: &mut PgConnection, lease: &ItemLease) -> pg::Result<Option<Job>> {
    let job = select!("WHERE purge_id = $1 AND epoch = $2", lease.id, lease.epoch).fetch_optional(db).await?;
    job.transpose()
}

/// Writes the state of a job; no other statement does. A worker gives the epoch of its lease; a request of a
/// tenant or operator gives none.
///
/// # Errors
/// [`pg::Error::Stale`] if the row has changed since it was `read`, or another worker has the lease.
pub async fn save(
    db: &mut PgConnection,
    purge_id: PurgeId,
    read: &Record,
    to: &Record,
    waits_for: Option<Custodian>,
    epoch: Option<i64>,
) -> pg::Result<()> {
    let (state, phase) = to_columns(to.state);
    let done = sqlx::query!(
        "UPDATE purge_jobs
         SET state = $4, phase = $5, cause = $6, waits_for = $7, attempts = $8, rounds = $9, giving_up = $10,
             next_attempt_at = $11, committed_at = $12, generation = $13,
             subject_id = CASE WHEN $14 THEN subject_id END
         WHERE purge_id = $1 AND generation = $2 AND ($3::bigint IS NULL OR epoch = $3)",
        purge_id.0,
        read.generation,
        epoch,
        state as StateLabel,
        phase as Option<Phase>,
        to.cause.map(Cause::name),
        waits_for.map(Custodian::service),
        i32::try_from(to.attempts).unwrap_or(i32::MAX),
        i32::try_from(to.rounds).unwrap_or(i32::MAX),
        to.canceling,
        to.next_attempt_at,
        to.committed_at,
        to.generation,
        to.state != State::Committed,
    )
    .execute(db)
    .await?;
    ensure_affected(&done, 1)
}

/// Stores the trace of a job, unless it has one.
pub async fn set_traceparent(db: &mut PgConnection, lease: &ItemLease, traceparent: &str) -> pg::Result<()> {
    sqlx::query!(
        "UPDATE purge_jobs SET traceparent = $3 WHERE purge_id = $1 AND epoch = $2 AND traceparent IS NULL",
        lease.id,
        lease.epoch,
        traceparent,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Clears the subject in every job of `subject`. If the subject is an account, it also clears the subject,
/// the account and the requesting principal in every job of the account, those of its sessions included.
pub async fn clear_subject(db: &mut PgConnection, subject: &Subject) -> pg::Result<()> {
    sqlx::query!("UPDATE purge_jobs SET subject_id = NULL WHERE subject_hash = $1", &subject.hash().0[..])
        .execute(&mut *db)
        .await?;
    if let Subject::Account { account } = subject {
        sqlx::query!(
            "UPDATE purge_jobs
             SET account_id = NULL, requested_by = NULL, subject_id = NULL
             WHERE account_id = $1",
            account.0
        )
        .execute(db)
        .await?;
    }
    Ok(())
}

/// Returns whether a job of the subject has passed the point of no return.
pub async fn is_past_return(db: &mut PgConnection, subject: SubjectHash) -> pg::Result<bool> {
    let past = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM purge_jobs
               WHERE subject_hash = $1
                 AND (state = 'committed' OR phase IN ('erasing', 'erased', 'verified'))) AS "past!""#,
        &subject.0[..]
    )
    .fetch_one(db)
    .await?;
    Ok(past)
}

/// Sets the next attempt of every job that a hold blocks to `now`, if it is later. Returns the number of jobs
/// changed.
pub async fn wake_held(db: &mut PgConnection, now: DateTime<Utc>) -> pg::Result<u64> {
    let done = sqlx::query!(
        "UPDATE purge_jobs
         SET next_attempt_at = $1
         WHERE state = 'blocked' AND cause = 'HELD' AND next_attempt_at > $1",
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Counts open jobs by state.
pub async fn count_by_state(db: &mut PgConnection) -> pg::Result<Vec<(StateLabel, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT state, count(*) AS "count!"
           FROM purge_jobs
           WHERE state NOT IN ('committed', 'thawed')
           GROUP BY state"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
}
