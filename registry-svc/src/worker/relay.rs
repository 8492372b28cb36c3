//! Delivers what is stored: takes ready lanes, oldest first, and works on as many at once as is allowed; and ends
//! messages whose time is over.
//!
//! A candidate is a lane of an agent that is called, with something to send, whose time has come and that nobody
//! works on. A lane whose holder's lease ran out is taken only after this process has been in touch with Postgres
//! for the time of a lease, so that holders could renew after an outage.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        lease::Scanner,
        pg::{Pool, Tx},
    },
    run::lifecycle::{Beat, Lifecycle, LoopResult},
    wire::error::Chain,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::relay::deliver::Deliverer,
    config::RelayConfig,
    store::{
        self,
        lanes::{Bounds, Lane},
    },
};

/// Lanes taken in one statement.
const BATCH: usize = 32;

/// Expired messages ended in one statement.
const EXPIRED: i64 = 500;

/// Starts the tasks.
pub fn start(
    deliverer: Deliverer,
    pool: Pool,
    hint: Arc<Notify>,
    owner: String,
    config: &RelayConfig,
    lifecycle: &Lifecycle,
) {
    let period = config.expire_period;
    let expirer = deliverer.clone();
    lifecycle.every("expired messages", period, move || {
        let deliverer = expirer.clone();
        async move {
            deliverer.expire(EXPIRED).await?;
            Ok(())
        }
    });

    let dispatcher = Dispatcher {
        deliverer,
        pool,
        hint,
        owner,
        slots: Arc::new(Semaphore::new(config.max_dispatches)),
        of_agent: config.max_dispatches_per_agent.into(),
        of_account: config.max_dispatches_per_account.into(),
        period: config.scan_period,
        lifecycle: lifecycle.clone(),
        max_dispatches: u32::try_from(config.max_dispatches).unwrap_or(u32::MAX),
        drain: config.drain,
        stop: CancellationToken::new(),
    };
    lifecycle.supervise("deliver messages", config.scan_period * 3 + Duration::from_secs(30), move |beat| {
        let dispatcher = dispatcher.clone();
        async move { dispatcher.run(beat).await }
    });
}

#[derive(Debug, Clone)]
struct Dispatcher {
    deliverer: Deliverer,
    pool: Pool,
    hint: Arc<Notify>,
    owner: String,
    slots: Arc<Semaphore>,
    of_agent: i64,
    of_account: i64,
    period: Duration,
    lifecycle: Lifecycle,
    max_dispatches: u32,
    drain: Duration,
    stop: CancellationToken,
}

impl Dispatcher {
    async fn run(&self, beat: Beat) -> LoopResult {
        let ended = self.dispatch(beat).await;
        if self.lifecycle.soft().is_cancelled() {
            // What is on its way at a stop gets this long; then its lane is given back for others.
            let all_done = self.slots.acquire_many(self.max_dispatches);
            let _late = tokio::time::timeout(self.drain, all_done).await;
            self.stop.cancel();
        }
        ended
    }

    async fn dispatch(&self, beat: Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut scanner = Scanner::new(self.deliverer.lease());
        while !soft.is_cancelled() {
            let free = self.slots.available_permits().min(BATCH);
            let taken = if free == 0 { 0 } else { self.take(&mut scanner, free).await? };
            beat.tick();
            // One that takes too few may have met an account at its bound: the next one passes that by.
            if taken > 0 {
                continue;
            }
            tokio::select! {
                () = soft.cancelled() => {}
                () = self.hint.notified() => {}
                () = tokio::time::sleep(self.period) => {}
            }
        }
        Ok(())
    }

    /// Takes up to `free` lanes and starts on them.
    async fn take(&self, scanner: &mut Scanner, free: usize) -> Result<usize, svc_core::data::pg::Error> {
        let lapsed = scanner.may_take(Instant::now());
        let bounds = Bounds {
            limit: i64::try_from(free).unwrap_or(i64::MAX),
            of_agent: self.of_agent,
            of_account: self.of_account,
        };
        // Leases of lanes, and nothing of what is in them: a freeze fences these in its own transaction.
        let mut tx = Tx::system(&self.pool).await?;
        let lanes = store::lanes::claim(&mut tx, &self.owner, self.deliverer.lease(), lapsed, bounds).await?;
        tx.commit().await?;
        scanner.reached(Instant::now());
        let taken = lanes.len();
        for lane in lanes {
            self.start(lane);
        }
        Ok(taken)
    }

    fn start(&self, lane: Lane) {
        // There are as many slots as were asked for: this task alone takes them.
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
        let this = self.clone();
        drop(self.lifecycle.spawn("deliver a message", async move {
            match this.deliverer.work(&lane, &this.stop).await {
                Ok(_) => {}
                // The lane goes to whoever takes it when the lease has run out.
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), agent.id = %lane.target, "lane not worked on")
                }
            }
            drop(slot);
            // A slot is free, and the lane may have more.
            this.hint.notify_one();
        }));
    }
}
