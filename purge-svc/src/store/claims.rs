//! How workers get jobs: one statement a batch, the most urgent first.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    data::{lease::ItemLease, pg},
    item_lease,
    wire::error::Chain,
};

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
/// longest, so that a job which was just tried stands behind its equals. Of triggers that are switched off only
/// those are taken that have begun already, or are being given up: what is frozen shall not stay so.
///
/// A row that makes no sense to this program is reported and left alone until its lease runs out; it keeps
/// nobody else waiting.
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
        how.triggers as &[Trigger],
        how.expired,
        how.limit,
        how.owner,
        how.ttl.as_secs_f64(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut claims = Vec::with_capacity(taken.len());
    for job in jobs::by_urgency(db, &taken).await? {
        match job.and_then(|job| held(job, how.owner)) {
            Ok(claim) => claims.push(claim),
            Err(error) => tracing::error!(error = %Chain(&error), "purge cannot be read, leaving it"),
        }
    }
    Ok(claims)
}

fn held(job: Job, owner: &str) -> pg::Result<Claim> {
    let purge_id = job.purge_id;
    let subject = job.subject.ok_or_else(|| {
        pg::Error::inconsistent("purge_jobs", "subject_id", purge_id, "is null in a job with work left")
    })?;
    let lease = ItemLease { id: purge_id.0, epoch: job.epoch, owner: owner.to_owned() };
    Ok(Claim { job, subject, lease })
}
