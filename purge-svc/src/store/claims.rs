//! Claims of due jobs: one statement a batch, the most urgent first.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::{lease::ItemLease, pg},
    error::Chain,
    item_lease,
    subject::Subject,
};

use super::jobs;
use crate::domain::{job::Job, trigger::Trigger};

item_lease! {
    /// Leases of the table of jobs.
    pub struct JobLeases: "purge_jobs", "purge_id"
}

/// A claimed job, with the lease that lets its worker write it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub job: Job,
    pub subject: Subject,
    pub lease: ItemLease,
}

/// Which jobs a process claims.
#[derive(Debug, Clone, Copy)]
pub struct Due<'a> {
    /// Name of the claiming process.
    pub holder: &'a str,
    /// Length of the leases.
    pub ttl: Duration,
    /// Triggers that are switched on.
    pub triggers: &'a [Trigger],
    /// Whether jobs with expired leases may be claimed.
    pub expired: bool,
    /// Maximum number of jobs.
    pub limit: i64,
}

/// Claims jobs that are due at `now` and not leased, the most urgent first: by priority, then by the time
/// since which they are due, so that a job that was just tried comes last among jobs of its priority. Jobs of
/// triggers that are switched off are claimed only if they have begun or are being canceled, because a frozen
/// subject must not stay frozen. With `due.expired`, jobs with an expired lease are claimed too.
///
/// A row that this program cannot read is logged and skipped until its lease expires; the other jobs are
/// claimed.
///
/// # Errors
/// [`pg::Error`] if the database failed; the caller then rolls back.
pub async fn claim(db: &mut PgConnection, due: Due<'_>, now: DateTime<Utc>) -> pg::Result<Vec<Claim>> {
    let taken = sqlx::query_scalar!(
        "WITH due AS (
             SELECT purge_id
             FROM purge_jobs
             WHERE state NOT IN ('dead_lettered', 'committed', 'thawed')
               AND next_attempt_at <= $1
               AND (trigger = ANY ($2) OR phase <> 'pending' OR giving_up)
               AND (lease_until IS NULL OR ($3 AND lease_until < now()))
             ORDER BY priority, next_attempt_at, purge_id
             LIMIT $4
             FOR UPDATE SKIP LOCKED)
         UPDATE purge_jobs
         SET epoch = epoch + 1, lease_owner = $5, lease_until = now() + make_interval(secs => $6)
         FROM due
         WHERE purge_jobs.purge_id = due.purge_id
         RETURNING purge_jobs.purge_id",
        now,
        due.triggers as &[Trigger],
        due.expired,
        due.limit,
        due.holder,
        due.ttl.as_secs_f64(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut claims = Vec::with_capacity(taken.len());
    for job in jobs::by_urgency(db, &taken).await? {
        match job.and_then(|job| claimed(job, due.holder)) {
            Ok(claim) => claims.push(claim),
            Err(error) => tracing::error!(error = %Chain(&error), "purge cannot be read, skipping it"),
        }
    }
    Ok(claims)
}

fn claimed(job: Job, holder: &str) -> pg::Result<Claim> {
    let purge_id = job.purge_id;
    let subject = job.subject.ok_or_else(|| {
        pg::Error::inconsistent("purge_jobs", "subject_id", purge_id, "is null in a job with work left")
    })?;
    let lease = ItemLease { id: purge_id.0, epoch: job.epoch, owner: holder.to_owned() };
    Ok(Claim { job, subject, lease })
}
