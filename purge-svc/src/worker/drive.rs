//! Takes jobs that are due and drives each as far as it goes.
//!
//! A candidate is a job that is not final, not dead-lettered, due, of a trigger that is switched on, and that no
//! other worker holds. One claimer a process takes as many as there are free places; each is driven in a task of
//! its own under a lease that another task renews. At a stop the step in hand is finished and the lease given
//! back.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        lease::{Scanner, item},
        pg::{self, Pool},
        wake::Wake,
    },
    run::{
        clock::SharedClock,
        lifecycle::{Beat, Lifecycle, LoopResult},
        telemetry,
    },
    wire::error::{Chain, ErrorKind, ServiceError},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{
    app::{
        drive::{Driver, Progress},
        jobs::TOPIC,
    },
    config::WorkerConfig,
    domain::subject::Trigger,
    store::{
        claims::{self, Claim, Claiming, JobLeases},
        jobs,
    },
};

/// Takes and drives jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    pool: Pool,
    driver: Driver,
    clock: SharedClock,
    lifecycle: Lifecycle,
    /// Who holds this process's leases.
    owner: Arc<str>,
    triggers: Arc<[Trigger]>,
    ttl: Duration,
    poll: Duration,
    places: Arc<Semaphore>,
}

impl Worker {
    /// A worker that calls itself `owner` and works on jobs of these triggers.
    #[must_use]
    pub fn new(
        pool: Pool,
        driver: Driver,
        clock: SharedClock,
        lifecycle: Lifecycle,
        owner: &str,
        triggers: Arc<[Trigger]>,
        config: &WorkerConfig,
    ) -> Self {
        Self {
            pool,
            driver,
            clock,
            lifecycle,
            owner: owner.into(),
            triggers,
            ttl: config.lease_ttl,
            poll: config.poll,
            places: Arc::new(Semaphore::new(config.concurrency)),
        }
    }

    /// Starts taking jobs.
    pub fn start(self, wake: Wake) {
        let patience = self.poll.saturating_mul(10) + Duration::from_secs(30);
        let lifecycle = self.lifecycle.clone();
        lifecycle.supervise("purge claims", patience, move |beat| {
            let (worker, wake) = (self.clone(), wake.clone());
            async move { worker.claim_until_stopped(&wake, &beat).await }
        });
    }

    async fn claim_until_stopped(&self, wake: &Wake, beat: &Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut hints = wake.subscribe(TOPIC).await;
        let mut scanner = Scanner::new(self.ttl);
        loop {
            self.claim(&mut scanner).await?;
            beat.tick();
            tokio::select! {
                () = soft.cancelled() => return Ok(()),
                _hint = hints.next(self.poll) => {}
            }
        }
    }

    /// Takes as many jobs as there are free places, and drives each in a task of its own.
    async fn claim(&self, scanner: &mut Scanner) -> Result<(), pg::Error> {
        let mut places = Vec::new();
        while let Ok(place) = self.places.clone().try_acquire_owned() {
            places.push(place);
        }
        let how = Claiming {
            owner: &self.owner,
            ttl: self.ttl,
            triggers: &self.triggers,
            expired: scanner.may_take(Instant::now()),
            limit: i64::try_from(places.len()).unwrap_or(i64::MAX),
        };
        let mut tx = pg::Tx::system(&self.pool).await?;
        let claims = claims::claim(&mut tx, how, self.clock.now()).await?;
        tx.commit().await?;
        scanner.reached(Instant::now());
        for (claim, place) in claims.into_iter().zip(places) {
            let worker = self.clone();
            drop(self.lifecycle.spawn("purge", async move { worker.drive(claim, place).await }));
        }
        Ok(())
    }

    /// Drives one job until it waits, is over, or is lost.
    async fn drive(&self, claim: Claim, _place: OwnedSemaphorePermit) {
        let span = self.span(&claim).await;
        let lost = CancellationToken::new();
        let renewing = self.renew(claim.lease.clone(), lost.clone());
        let driving = Box::pin(self.drive_to_rest(claim, &lost));
        async {
            tokio::select! {
                () = driving => {}
                () = renewing => tracing::warn!("lease of this purge is lost, leaving it"),
            }
        }
        .instrument(span)
        .await;
    }

    async fn drive_to_rest(&self, mut claim: Claim, lost: &CancellationToken) {
        let soft = self.lifecycle.soft();
        while !soft.is_cancelled() && !lost.is_cancelled() {
            match self.driver.advance(&mut claim).await {
                Ok(Progress::Advanced) => {}
                Ok(Progress::Waits | Progress::Final) => break,
                Ok(Progress::Lost) => return,
                Err(error) => {
                    self.stumble(&mut claim, &error).await;
                    break;
                }
            }
        }
        self.release(&claim).await;
    }

    /// Postgres being away, or not saying whether it committed, says nothing about the job; anything else would
    /// happen again at once.
    async fn stumble(&self, claim: &mut Claim, error: &pg::Error) {
        let purge_id = claim.job.purge_id;
        tracing::error!(purge.id = %purge_id, error = %Chain(error), "purge cannot be driven now");
        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Aborted) {
            return;
        }
        if let Err(error) = self.driver.step_back(claim).await {
            tracing::error!(purge.id = %purge_id, error = %Chain(&error), "purge cannot step back");
        }
    }

    async fn release(&self, claim: &Claim) {
        let released = async {
            let mut db = self.pool.acquire().await?;
            item::release::<JobLeases>(&mut db, &claim.lease).await
        };
        if let Err(error) = released.await {
            tracing::info!(purge.id = %claim.job.purge_id, error = %Chain(&error), "lease runs out by itself");
        }
    }

    /// Renews a lease until it is lost. Postgres not answering is no loss: only a taking is.
    async fn renew(&self, lease: svc_core::data::lease::ItemLease, lost: CancellationToken) {
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let renewed = async {
                let mut db = self.pool.acquire().await?;
                item::renew::<JobLeases>(&mut db, &lease, self.ttl).await
            };
            match renewed.await {
                Ok(()) => {}
                Err(pg::Error::Fenced(_)) => {
                    lost.cancel();
                    return;
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "lease of a purge is not renewed"),
            }
        }
    }

    /// The span of one drive. A job has a trace of its own, which its first worker opens and links to the
    /// request that caused it, and which every later worker goes on with.
    async fn span(&self, claim: &Claim) -> Span {
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
                tracing::warn!(error = %Chain(&error), "trace of a purge is not remembered");
            }
        }
        span
    }
}
