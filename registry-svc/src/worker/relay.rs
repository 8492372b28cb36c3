//! Claims ready lanes, the longest ready first, and delivers their messages, up to a maximum at once; it also
//! ends expired messages.
//!
//! A lane is claimed only if its agent is a push agent, its `ready_at` has passed, no worker has a valid
//! lease of it, and its agent and account are below their limits of deliveries. A lane with an expired lease
//! is claimed only after this process has reached Postgres for the duration of a lease. After an outage of
//! Postgres the lane's worker can thus renew its lease first.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::lease::Scanner,
    error::Chain,
    run::lifecycle::{Beat, Lifecycle, LoopResult, longest_silence},
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::relay::deliver::Deliverer,
    config::RelayConfig,
    domain::lane::{ClaimLimits, Lane},
    error::Error,
};

/// Lanes claimed in one statement.
const BATCH: usize = 32;

/// Starts the deliveries and the expiry. `hint` wakes the dispatcher before its next scan.
pub(crate) fn start(deliverer: Deliverer, hint: Arc<Notify>, config: &RelayConfig, lifecycle: &Lifecycle) {
    let expirer = deliverer.clone();
    lifecycle.every("expired messages", config.expire_period, move || {
        let deliverer = expirer.clone();
        async move { Ok(deliverer.expire().await?) }
    });

    let dispatcher = Dispatcher {
        deliverer,
        hint,
        slots: Arc::new(Semaphore::new(config.max_dispatches)),
        config: config.clone(),
        lifecycle: lifecycle.clone(),
        stop: CancellationToken::new(),
    };
    let silence = longest_silence(config.scan_period, 3, Duration::from_secs(30));
    lifecycle.supervise("deliver messages", silence, move |beat| {
        let dispatcher = dispatcher.clone();
        async move { dispatcher.run(beat).await }
    });
}

#[derive(Debug, Clone)]
struct Dispatcher {
    deliverer: Deliverer,
    hint: Arc<Notify>,
    /// One permit for each delivery that may run.
    slots: Arc<Semaphore>,
    config: RelayConfig,
    lifecycle: Lifecycle,
    /// Ends the deliveries that still run after the drain.
    stop: CancellationToken,
}

impl Dispatcher {
    async fn run(&self, beat: Beat) -> LoopResult {
        let ended = self.dispatch(beat).await;
        if self.lifecycle.soft().is_cancelled() {
            // Running deliveries get the drain time; then their lanes are released.
            let slots = u32::try_from(self.config.max_dispatches).unwrap_or(u32::MAX);
            let _late = tokio::time::timeout(self.config.drain, self.slots.acquire_many(slots)).await;
            self.stop.cancel();
        }
        ended
    }

    async fn dispatch(&self, beat: Beat) -> LoopResult {
        let soft = self.lifecycle.soft();
        let mut scanner = Scanner::new(self.deliverer.lease);
        while !soft.is_cancelled() {
            let free = self.slots.available_permits().min(BATCH);
            let claimed = if free == 0 { 0 } else { self.claim(&mut scanner, free).await? };
            beat.tick();
            // Claims again at once if any lane was claimed. If an account reaches its limit, a claim may
            // return fewer lanes than there are free slots; the next claim leaves this account out and finds
            // lanes of other accounts.
            if claimed > 0 {
                continue;
            }
            tokio::select! {
                () = soft.cancelled() => {}
                () = self.hint.notified() => {}
                () = tokio::time::sleep(self.config.scan_period) => {}
            }
        }
        Ok(())
    }

    /// Claims up to `free` lanes and starts to deliver their messages.
    async fn claim(&self, scanner: &mut Scanner, free: usize) -> Result<usize, Error> {
        let limits = ClaimLimits {
            lanes: i64::try_from(free).unwrap_or(i64::MAX),
            per_agent: self.config.max_dispatches_per_agent.into(),
            per_account: self.config.max_dispatches_per_account.into(),
        };
        let lanes = self.deliverer.claim(scanner.may_take(Instant::now()), limits).await?;
        scanner.reached(Instant::now());
        let claimed = lanes.len();
        for lane in lanes {
            self.start(lane);
        }
        Ok(claimed)
    }

    fn start(&self, lane: Lane) {
        // The slot is free: only this task takes slots, and it claims at most as many lanes as there are free
        // slots.
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
        let this = self.clone();
        drop(self.lifecycle.spawn("deliver a message", async move {
            // After an error the lane is claimed again once its lease has expired.
            if let Err(error) = this.deliverer.deliver(&lane, &this.stop).await {
                tracing::warn!(error = %Chain(&error), agent.id = %lane.target, "message not delivered");
            }
            drop(slot);
            // Wakes the dispatcher: a slot is free, and the lane may have more messages.
            this.hint.notify_one();
        }));
    }
}
