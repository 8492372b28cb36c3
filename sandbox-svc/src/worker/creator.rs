//! Makes what is queued, users before the pool, and takes over what nobody makes any more.
//!
//! Candidates: rows of this engine that are `requested`, and those that are `creating` whose lease was given back, or
//! ran out while this process was in touch with Postgres for a whole lease. Nothing is taken while the host is
//! critical, and nothing for the pool while it is warned of.

use std::sync::Arc;

use svc_core::data::lease::Scanner;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{host::HostLevel, patience};
use crate::{
    app::{Shared, engine_topic, making},
    domain::{host::Level, sandbox::State},
    error::Result,
    store::queue,
};

/// Rows looked at in one round.
const BATCH: i64 = 64;

/// Starts the creator of the engine that this process serves.
pub fn start(ctx: &Shared, host: &HostLevel, owner: &str) {
    let (ctx, host, owner) = (ctx.clone(), host.clone(), owner.to_owned());
    let lifecycle = ctx.lifecycle.clone();
    let poll = ctx.settings.create.poll;
    lifecycle.supervise("sandbox creator", patience(poll), move |beat| {
        let creator = Creator {
            places: Arc::new(Semaphore::new(usize::try_from(ctx.settings.create.cap).unwrap_or(1))),
            freed: Arc::default(),
            ctx: ctx.clone(),
            host: host.clone(),
            owner: owner.clone(),
        };
        async move {
            let engine = creator.ctx.served()?.info.id.clone();
            let soft = creator.ctx.lifecycle.soft();
            let mut hints = creator.ctx.wake.subscribe(&engine_topic(&engine)).await;
            let mut scanner = Scanner::new(creator.ctx.settings.create.lease);
            loop {
                match creator.round(&scanner).await {
                    Ok(()) => scanner.reached(Instant::now()),
                    Err(error) => {
                        tracing::warn!(error = %svc_core::wire::error::Chain(&error), "creator round failed")
                    }
                }
                beat.tick();
                tokio::select! {
                    () = soft.cancelled() => return Ok(()),
                    () = creator.freed.notified() => {}
                    _ = hints.next(poll) => {}
                }
            }
        }
    });
}

struct Creator {
    ctx: Shared,
    host: HostLevel,
    owner: String,
    /// What this process makes at once.
    places: Arc<Semaphore>,
    freed: Arc<Notify>,
}

impl Creator {
    async fn round(&self, scanner: &Scanner) -> Result<()> {
        let served = self.ctx.served()?;
        let expired = scanner.may_take(Instant::now());
        let left = {
            let mut db = self.ctx.pool.acquire().await?;
            queue::unattended(&mut db, &served.info.id, State::Creating, expired, BATCH).await?
        };
        for (id, seen) in left {
            if self.places.available_permits() == 0 {
                return Ok(());
            }
            if let Some(job) = making::take_over(&self.ctx, id, seen, &self.owner).await? {
                tracing::info!(sandbox.id = %id, "sandbox taken over");
                self.make(job);
            }
        }
        while self.places.available_permits() > 0 && self.host.get() < Level::Critical {
            let warm = self.host.get() == Level::Fine;
            match making::take_next(&self.ctx, served, &self.owner, warm).await? {
                Some(job) => self.make(job),
                None => break,
            }
        }
        Ok(())
    }

    /// Makes it on a task of its own. The only taker of places is this loop, so there is one.
    fn make(&self, job: making::Job) {
        let (ctx, freed) = (self.ctx.clone(), self.freed.clone());
        let place = self.places.clone().try_acquire_owned();
        drop(self.ctx.lifecycle.spawn("sandbox making", async move {
            let id = job.sandbox.id;
            let made = match ctx.served() {
                Ok(served) => making::make(&ctx, served, job).await,
                Err(error) => Err(error),
            };
            if let Err(error) = made {
                tracing::warn!(sandbox.id = %id, error = %svc_core::wire::error::Chain(&error), "sandbox not made");
            }
            drop(place);
            freed.notify_one();
        }));
    }
}

/// Looks once; for tests.
///
/// # Errors
/// [`crate::Error`].
#[cfg(any(test, feature = "test-util"))]
pub async fn make_next(ctx: &Shared, served: &crate::app::Served, owner: &str) -> Result<bool> {
    match making::take_next(ctx, served, owner, true).await? {
        Some(job) => making::make(ctx, served, job).await.map(|()| true),
        None => Ok(false),
    }
}
