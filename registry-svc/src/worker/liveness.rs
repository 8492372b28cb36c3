//! Keeps the knowledge of who is alive: stamps beats, writes them down, says that this replica hears agents, and
//! looks for silent ones (one replica at a time).

use std::time::Duration;

use svc_core::{
    data::lease::Singleton,
    run::lifecycle::{Lifecycle, LoopResult},
};
use tokio::time::Instant;

use crate::{
    app::{
        heartbeat::{Flusher, Stamping},
        sweep::Sweep,
    },
    config::HeartbeatConfig,
    store::beats::BeatStore,
};

/// How many periods a replica may be late before its word is not taken.
const REPLICA_PERIODS: u32 = 3;

/// A replica not heard of for so long is forgotten.
const FORGET_REPLICA: Duration = Duration::from_secs(24 * 3600);

/// How long a replica's word that it hears agents is taken.
#[must_use]
pub fn replica_fresh(config: &HeartbeatConfig) -> Duration {
    config.replica_period * REPLICA_PERIODS
}

/// Starts the tasks that every replica runs.
pub fn start(
    stamping: Stamping,
    flusher: Flusher,
    beats: BeatStore,
    config: &HeartbeatConfig,
    lifecycle: &Lifecycle,
) {
    drop(lifecycle.spawn("stamp beats", stamping.run(lifecycle.soft())));

    let (period, soft) = (config.flush_period, lifecycle.soft());
    lifecycle.supervise("write beats down", period * 3 + Duration::from_secs(30), move |beat| {
        let (flusher, soft) = (flusher.clone(), soft.clone());
        async move {
            loop {
                let stopped = tokio::time::timeout(period, soft.cancelled()).await.is_ok();
                flusher.flush().await?;
                beat.tick();
                if stopped {
                    return Ok(());
                }
            }
        }
    });

    lifecycle.every("hear beats", config.replica_period, move || {
        let beats = beats.clone();
        async move {
            // Without Redis there is nobody to tell, and nothing of it fails.
            match beats.alive(FORGET_REPLICA).await {
                Err(error) if !error.is_down() => Err(error.into()),
                Ok(()) | Err(_) => Ok(()),
            }
        }
    });
}

/// Starts the sweep; of all replicas, one at a time does it.
pub fn start_sweep(sweep: Sweep, singleton: Singleton, config: &HeartbeatConfig, lifecycle: &Lifecycle) {
    let adopt_period = config.adopt_period;
    let mut adopt_at = Instant::now();
    lifecycle.every("silent agents", config.sweep_period, move || {
        let (sweep, singleton) = (sweep.clone(), singleton.clone());
        let adopts = Instant::now() >= adopt_at;
        if adopts {
            adopt_at = Instant::now() + adopt_period;
        }
        async move { pass(&sweep, &singleton, adopts).await }
    });
}

/// One pass, if this replica gets the lease.
async fn pass(sweep: &Sweep, singleton: &Singleton, adopts: bool) -> LoopResult {
    let Some(held) = singleton.acquire().await? else { return Ok(()) };
    if adopts {
        sweep.adopt().await?;
    }
    tokio::select! {
        () = held.lost().cancelled_owned() => {}
        swept = sweep.sweep(&held) => {
            swept?;
        }
    }
    Ok(())
}
