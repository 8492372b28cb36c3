//! How workers get jobs: one statement a batch, the most urgent first.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{item_lease, lease::ItemLease, pg};

use super::jobs;
use crate::domain::{
    job::Job,
    subject::{Subject, Trigger},
};

item_lease! {
    /// Jobs being worked on.
    pub struct JobLeases: "purge_jobs", "purge_id"
}

/// A job that a worker holds.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: Job,
    /// Whom it erases.
    pub subject: Subject,
    /// The right to write it.
    pub lease: ItemLease,
}

/// How jobs are claimed.
#[derive(Debug, Clone, Copy)]
pub struct Claiming<'a> {
    /// The worker.
    pub owner: &'a str,
    /// How long its lease lasts.
    pub ttl: Duration,
    /// Triggers that are switched on.
    pub triggers: &'a [Trigger],
    /// Whether leases that ran out may be taken over.
    pub expired: bool,
    /// Most jobs.
    pub limit: i64,
}

/// Takes jobs that are due at `now` and that nobody holds: the most urgent first, then those that waited
/// longest, so that a job which was just tried stands behind its equals.
///
/// # Errors
/// [`pg::Error`] if none was taken.
pub async fn claim(db: &mut PgConnection, how: Claiming<'_>, now: DateTime<Utc>) -> pg::Result<Vec<Claim>> {
    let taken = sqlx::query_scalar!(
        "WITH due AS (
             SELECT purge_id
             FROM purge_jobs
             WHERE state NOT IN ('dead_lettered', 'committed', 'thawed')
               AND next_attempt_at <= $1
               AND trigger = ANY ($2)
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
        how.triggers as &[Trigger],
        how.expired,
        how.limit,
        how.owner,
        how.ttl.as_secs_f64(),
    )
    .fetch_all(&mut *db)
    .await?;
    let jobs = jobs::by_urgency(db, &taken).await?;
    jobs.into_iter()
        .map(|job| {
            let subject = job.subject.ok_or_else(|| {
                pg::Error::inconsistent(
                    "purge_jobs",
                    "subject_id",
                    job.purge_id,
                    "is null in a job with work left",
                )
            })?;
            let lease = ItemLease { id: job.purge_id.0, epoch: job.epoch, owner: how.owner.to_owned() };
            Ok(Claim { job, subject, lease })
        })
        .collect()
}
