//! Claims due jobs, renews and releases their leases, and continues their traces.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        lease::item,
        pg::{self, Pool, Tx},
    },
    error::Chain,
    run::{clock::SharedClock, telemetry},
};
use tracing::Span;

use crate::{
    domain::trigger::Trigger,
    store::{
        claims::{self, Claim, Due, JobLeases},
        jobs,
    },
};

/// How a process claims jobs.
#[derive(Debug, Clone)]
pub struct Claiming {
    /// Name of this process as the holder of leases.
    pub holder: String,
    /// Length of a lease.
    pub ttl: Duration,
    /// Triggers that are switched on.
    pub triggers: Arc<[Trigger]>,
}

/// Claims of jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Claims {
    pool: Pool,
    clock: SharedClock,
    how: Arc<Claiming>,
}

impl Claims {
    pub fn new(pool: Pool, clock: SharedClock, how: Claiming) -> Self {
        Self { pool, clock, how: Arc::new(how) }
    }

    /// Returns the length of a lease.
    pub fn ttl(&self) -> Duration {
        self.how.ttl
    }

    /// Claims up to `limit` due jobs, the most urgent first. With `expired`, it also claims jobs with an
    /// expired lease of another process.
    ///
    /// # Errors
    /// [`pg::Error`] if the database failed; no job is claimed then, or it is unknown whether jobs were.
    pub async fn claim(&self, limit: usize, expired: bool) -> Result<Vec<Claim>, pg::Error> {
        let due = Due {
            holder: &self.how.holder,
            ttl: self.how.ttl,
            triggers: &self.how.triggers,
            expired,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        };
        let mut tx = Tx::system(&self.pool).await?;
        let claims = claims::claim(&mut tx, due, self.clock.now()).await?;
        tx.commit().await?;
        Ok(claims)
    }

    /// Renews the lease of a claim until another process has taken the job, and then returns
    /// [`pg::Error::Fenced`].
    pub async fn keep(&self, claim: &Claim) -> pg::Error {
        item::keep::<JobLeases>(&self.pool, &claim.lease, self.how.ttl).await
    }

    /// Gives a job back, so that another process need not wait for its lease to expire.
    pub async fn release(&self, claim: &Claim) {
        let released = async {
            let mut db = self.pool.acquire().await?;
            item::release::<JobLeases>(&mut db, &claim.lease).await
        };
        if let Err(error) = released.await {
            let purge_id = claim.job.purge_id;
            tracing::info!(purge.id = %purge_id, error = %Chain(&error), "lease not released, it expires");
        }
    }

    /// Opens the span of one run of a job. All runs of a job are in one trace: the first worker begins the
    /// trace and links it to the request that made the job; later workers continue it.
    pub async fn span(&self, claim: &Claim) -> Span {
        let span = tracing::info_span!(
            parent: None,
            "purge.drive",
            purge.id = %claim.job.purge_id,
            purge.epoch = claim.lease.epoch,
            purge.trigger = claim.job.trigger.name(),
        );
        if claim.job.traceparent.is_some() {
            telemetry::follow(&span, claim.job.traceparent.as_deref());
            return span;
        }
        telemetry::link(&span, claim.job.cause_traceparent.as_deref());
        if let Some(traceparent) = telemetry::traceparent(&span) {
            let written = async {
                let mut db = self.pool.acquire().await?;
                jobs::set_traceparent(&mut db, &claim.lease, &traceparent).await
            };
            if let Err(error) = written.await {
                tracing::warn!(error = %Chain(&error), "trace of a purge not stored");
            }
        }
        span
    }
}
