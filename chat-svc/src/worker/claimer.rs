//! Takes turns: those that wait and are the first of their session, and those that another worker left.
//!
//! One task a process asks for a batch at a time, when a notice comes and every scan period. Between scans it
//! walks the queue from a floor, the last turn it took, so that what lies dead at the head of the index is not
//! walked again; a notice lowers the floor to its turn, and every scan starts at the bottom.
//!
//! Turns that were handed over are taken at once. Those whose lease ran out are taken only while this process has
//! been in contact with Postgres for a whole lease: after an outage every holder has the chance to renew first.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use svc_core::{
    data::{
        lease::Scanner,
        pg::{self, Pool},
    },
    run::lifecycle::{Beat, Lifecycle, LoopResult},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use uuid::Uuid;

use super::{driver::Driver, leases::InHand};
use crate::{
    app::notice::{Notice, Notices},
    store::{
        claims::{self, Bounds},
        turns::Turn,
    },
};

/// How turns are taken and kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Turns that this process runs at once; 0 runs none.
    pub max_running: usize,
    /// Turns of one account that run at once, in all processes.
    pub max_running_per_account: u32,
    /// Turns of one claim.
    pub claim_batch: usize,
    /// How long a lease lasts.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// How often leases are renewed.
    #[serde(with = "humantime_serde")]
    pub renew_period: Duration,
    /// How often turns are looked for without a notice.
    #[serde(with = "humantime_serde")]
    pub scan_period: Duration,
    /// Claims without progress after which a turn fails.
    pub max_barren_claims: i32,
}

/// What the claimer works with.
#[derive(Debug, Clone)]
pub struct Claimer {
    config: Arc<WorkerConfig>,
    owner: Arc<str>,
    pool: Pool,
    notices: Notices,
    in_hand: InHand,
    slots: Arc<Semaphore>,
    driver: Driver,
    lifecycle: Lifecycle,
}

impl Claimer {
    /// A claimer that signs its leases as `owner`.
    #[must_use]
    pub fn new(
        config: Arc<WorkerConfig>,
        owner: &str,
        pool: Pool,
        notices: Notices,
        in_hand: InHand,
        driver: Driver,
        lifecycle: Lifecycle,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(config.max_running));
        Self { config, owner: owner.into(), pool, notices, in_hand, slots, driver, lifecycle }
    }

    /// Starts the task.
    pub fn start(self) {
        let patience = self.config.scan_period * 3 + Duration::from_secs(30);
        let lifecycle = self.lifecycle.clone();
        lifecycle.supervise("turn claimer", patience, move |beat| self.clone().run(beat));
    }

    async fn run(self, beat: Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut listener = self.notices.listen().await;
        let mut scanner = Scanner::new(self.config.lease_ttl);
        let mut scans = tokio::time::interval(self.config.scan_period);
        scans.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut floor = Uuid::nil();
        loop {
            tokio::select! {
                biased;
                () = soft.cancelled() => return Ok(()),
                _ = scans.tick() => floor = Uuid::nil(),
                notice = listener.next() => match notice {
                    Notice::Waits(id) => floor = floor.min(id.0),
                    Notice::Look => floor = Uuid::nil(),
                    Notice::Ended(id) => {
                        self.in_hand.check(&self.pool, id).await?;
                        continue;
                    }
                },
            }
            let expired = scanner.may_take(Instant::now());
            self.claim(&mut floor, expired).await?;
            scanner.reached(Instant::now());
            beat.tick();
        }
    }

    /// Takes turns until there are none, or no slot is free.
    async fn claim(&self, floor: &mut Uuid, expired: bool) -> Result<(), pg::Error> {
        let (owner, ttl) = (&*self.owner, self.config.lease_ttl);
        loop {
            let mut slots = self.free_slots();
            let limit = i64::try_from(slots.len()).unwrap_or(i64::MAX);
            let mut db = self.pool.acquire().await?;
            if limit == 0 {
                // Whoever calls this counts it as a sign of life of Postgres: it must have been one.
                claims::ping(&mut db).await?;
                return Ok(());
            }
            let taken = claims::take_over(&mut db, owner, ttl, expired, limit).await?;
            let mut left = limit - i64::try_from(taken.len()).unwrap_or(limit);
            // Driven before more is asked for: what was claimed and is dropped lies until its lease runs out.
            self.drive(taken, &mut slots);
            while left > 0 {
                let bounds = Bounds { limit: left, of_account: self.config.max_running_per_account.into() };
                let queued = claims::claim_queued(&mut db, owner, ttl, *floor, bounds).await?;
                // One that takes too few may have met an account at its bound: the next one passes that by.
                let Some(last) = queued.iter().map(|turn| turn.id.0).max() else { return Ok(()) };
                *floor = last;
                left -= i64::try_from(queued.len()).unwrap_or(left);
                self.drive(queued, &mut slots);
            }
        }
    }

    fn free_slots(&self) -> Vec<OwnedSemaphorePermit> {
        let take = || self.slots.clone().try_acquire_owned().ok();
        std::iter::from_fn(take).take(self.config.claim_batch).collect()
    }

    fn drive(&self, turns: Vec<Turn>, slots: &mut Vec<OwnedSemaphorePermit>) {
        for turn in turns {
            let Some(slot) = slots.pop() else { return };
            let (driver, in_hand) = (self.driver.clone(), self.in_hand.clone());
            let hard = self.lifecycle.hard();
            drop(self.lifecycle.spawn("turn driver", async move {
                // Hard ends it in the middle, as a crash would: another worker takes the turn up.
                let _ended = hard.run_until_cancelled(Box::pin(driver.drive(turn, &in_hand))).await;
                drop(slot);
            }));
        }
    }
}
