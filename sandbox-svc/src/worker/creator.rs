//! Creates queued sandboxes, for sessions first and then for the pool, and takes over abandoned ones.
//!
//! Candidates: rows of this engine that are `requested`; rows that are `creating` without a lease; and rows
//! that are `creating` with an expired lease, once this process has read Postgres without a gap for the time
//! to live of a lease ([`Scanner`]). No queued row is taken while the host's level is critical, and none for
//! the pool while it is a warning.

use std::sync::Arc;

use svc_core::{data::lease::Scanner, error::Chain, run::lifecycle::longest_silence};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{SLOW_ROUND, host::HostLevel};
use crate::{
    app::{
        Deps,
        creation::{Creator, Job},
    },
    domain::{host::Level, sandbox::State},
    error::Result,
};

/// Maximum rows of one round; the next round reads the rest.
const BATCH: i64 = 64;

/// Starts the creator of the served engine.
pub fn start(deps: &Deps, host: &HostLevel, holder: &str) {
    let (deps, host, holder) = (deps.clone(), host.clone(), holder.to_owned());
    let lifecycle = deps.lifecycle.clone();
    let poll = deps.settings.create.poll;
    lifecycle.supervise("sandbox creator", longest_silence(poll, 3, SLOW_ROUND), move |beat| {
        let rounds = Rounds {
            permits: Arc::new(Semaphore::new(usize::try_from(deps.settings.create.cap).unwrap_or(1))),
            freed: Arc::default(),
            creator: Creator { deps: deps.clone(), holder: holder.clone() },
            deps: deps.clone(),
            host: host.clone(),
        };
        async move {
            let deps = &rounds.deps;
            let soft = deps.lifecycle.soft();
            let mut hints = deps.notices.of_engine(&deps.engine.get()?.info.id).await;
            let mut scanner = Scanner::new(deps.settings.create.lease);
            loop {
                match rounds.run(&scanner).await {
                    Ok(()) => scanner.reached(Instant::now()),
                    Err(error) => tracing::warn!(error = %Chain(&error), "creator round failed"),
                }
                beat.tick();
                tokio::select! {
                    () = soft.cancelled() => return Ok(()),
                    () = rounds.freed.notified() => {}
                    _ = hints.next(poll) => {}
                }
            }
        }
    });
}

struct Rounds {
    deps: Deps,
    creator: Creator,
    host: HostLevel,
    /// One permit for each sandbox that this process may create at the same time.
    permits: Arc<Semaphore>,
    freed: Arc<Notify>,
}

impl Rounds {
    async fn run(&self, scanner: &Scanner) -> Result<()> {
        let expired = scanner.may_take(Instant::now());
        for row in self.deps.list_unattended(State::Creating, expired, BATCH).await? {
            if self.permits.available_permits() == 0 {
                return Ok(());
            }
            if let Some(job) = self.creator.take_over(row.id, row.epoch).await? {
                tracing::info!(sandbox.id = %row.id, "sandbox taken over");
                self.create(job);
            }
        }
        while self.permits.available_permits() > 0 && self.host.get() < Level::Critical {
            let warm = self.host.get() == Level::Fine;
            match self.creator.take_next(warm).await? {
                Some(job) => self.create(job),
                None => break,
            }
        }
        Ok(())
    }

    /// Creates the sandbox on a task of its own. This loop alone takes permits, so one is available here.
    fn create(&self, job: Job) {
        let (creator, freed) = (self.creator.clone(), self.freed.clone());
        let permit = self.permits.clone().try_acquire_owned();
        drop(self.deps.lifecycle.spawn("sandbox making", async move {
            let id = job.sandbox.id;
            if let Err(error) = creator.create(job).await {
                tracing::warn!(sandbox.id = %id, error = %Chain(&error), "sandbox not created");
            }
            drop(permit);
            freed.notify_one();
        }));
    }
}
