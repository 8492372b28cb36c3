//! Claims queued turns that are the first open turn of their session, and turns that another worker left.
//!
//! One task per process claims in batches, on every notice and every scan period. Between scans it searches
//! queued turns from the last one it claimed, so that dead entries at the head of the index are not read
//! again. A notice moves the start of the search back to its turn, and every scan starts at the first entry.
//!
//! Handed-over turns are taken at once. Turns with an expired lease are taken only after this process has
//! been in contact with Postgres for a whole lease: after an outage every holder can renew first.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{lease::Scanner, pg},
    run::lifecycle::{Beat, Lifecycle, LoopResult, longest_silence},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use uuid::Uuid;

use super::driver::Driver;
use crate::{
    app::{
        claims::Claims,
        notice::{Notice, Notices},
        running::RunningTurns,
    },
    config::WorkerConfig,
    domain::turn::Turn,
};

#[derive(Debug, Clone)]
pub(crate) struct Claimer {
    pub config: WorkerConfig,
    pub claims: Claims,
    pub notices: Notices,
    pub running: RunningTurns,
    pub driver: Driver,
    pub lifecycle: Lifecycle,
    /// One permit for each turn that may run.
    pub slots: Arc<Semaphore>,
}

impl Claimer {
    pub(crate) fn start(self) {
        let silence = longest_silence(self.config.scan_period, 3, Duration::from_secs(30));
        let lifecycle = self.lifecycle.clone();
        lifecycle.supervise("turn claimer", silence, move |beat| self.clone().run(beat));
    }

    async fn run(self, beat: Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut listener = self.notices.listen().await;
        let mut scanner = Scanner::new(self.config.lease_ttl);
        let mut scans = tokio::time::interval(self.config.scan_period);
        scans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut scan_from = Uuid::nil();
        loop {
            tokio::select! {
                biased;
                () = soft.cancelled() => return Ok(()),
                _ = scans.tick() => scan_from = Uuid::nil(),
                notice = listener.next() => match notice {
                    Notice::Waits(id) => scan_from = scan_from.min(id.0),
                    Notice::Missed => scan_from = Uuid::nil(),
                    Notice::Ended(id) => {
                        self.running.check(id).await?;
                        continue;
                    }
                },
            }
            let expired = scanner.may_take(Instant::now());
            self.claim(&mut scan_from, expired).await?;
            scanner.reached(Instant::now());
            beat.tick();
        }
    }

    /// Claims turns until none is left, or no slot is free.
    async fn claim(&self, scan_from: &mut Uuid, expired: bool) -> Result<(), pg::Error> {
        loop {
            let mut slots = self.free_slots();
            let limit = i64::try_from(slots.len()).unwrap_or(i64::MAX);
            if limit == 0 {
                // Checks the connection, because the caller counts this claim as contact with Postgres.
                return self.claims.ping().await;
            }
            let start = |turns| self.start_drivers(turns, &mut slots);
            if !self.claims.claim(scan_from, expired, limit, start).await? {
                return Ok(());
            }
        }
    }

    fn free_slots(&self) -> Vec<OwnedSemaphorePermit> {
        let take = || self.slots.clone().try_acquire_owned().ok();
        std::iter::from_fn(take).take(self.config.claim_batch).collect()
    }

    fn start_drivers(&self, turns: Vec<Turn>, slots: &mut Vec<OwnedSemaphorePermit>) {
        for turn in turns {
            let Some(slot) = slots.pop() else { return };
            let (driver, running) = (self.driver.clone(), self.running.clone());
            let hard = self.lifecycle.hard();
            drop(self.lifecycle.spawn("turn driver", async move {
                // A forced stop ends the driver as a crash would: another worker takes the turn over.
                let _ended = hard.run_until_cancelled(Box::pin(driver.drive(turn, &running))).await;
                drop(slot);
            }));
        }
    }
}
