//! Tasks about beats: renews deadlines, flushes beats, announces this replica, and sweeps for silent agents
//! (one replica at a time).

use std::time::Duration;

use svc_core::{
    data::lease::Singleton,
    run::lifecycle::{Lifecycle, LoopResult, longest_silence},
};
use tokio::time::Instant;

use crate::{
    app::{
        heartbeat::{Flusher, Heartbeats, RenewTask},
        sweep::Sweep,
    },
    config::HeartbeatConfig,
};

/// Starts the tasks that every replica runs.
pub(crate) fn start(
    renew: RenewTask,
    flusher: Flusher,
    heartbeats: Heartbeats,
    config: &HeartbeatConfig,
    lifecycle: &Lifecycle,
) {
    drop(lifecycle.spawn("renew deadlines", renew.run(lifecycle.soft())));

    let (period, soft) = (config.flush_period, lifecycle.soft());
    let silence = longest_silence(period, 3, Duration::from_secs(30));
    lifecycle.supervise("flush beats", silence, move |beat| {
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

    lifecycle.every("announce replica", config.replica_period, move || {
        let heartbeats = heartbeats.clone();
        async move { Ok(heartbeats.announce().await?) }
    });
}

/// Starts the sweep; the replica that holds the lease runs it.
pub(crate) fn start_sweep(
    sweep: Sweep,
    singleton: Singleton,
    config: &HeartbeatConfig,
    lifecycle: &Lifecycle,
) {
    let period = config.adopt_period;
    let mut add_missing_at = Instant::now();
    lifecycle.every("silent agents", config.sweep_period, move || {
        let (sweep, singleton) = (sweep.clone(), singleton.clone());
        let add_missing = Instant::now() >= add_missing_at;
        if add_missing {
            add_missing_at = Instant::now() + period;
        }
        async move { pass(&sweep, &singleton, add_missing).await }
    });
}

/// Runs one sweep if this replica gets the lease.
async fn pass(sweep: &Sweep, singleton: &Singleton, add_missing: bool) -> LoopResult {
    let Some(held) = singleton.acquire().await? else { return Ok(()) };
    if add_missing {
        sweep.add_missing().await?;
    }
    tokio::select! {
        () = held.lost().cancelled_owned() => Ok(()),
        swept = sweep.sweep(&held) => Ok(swept?),
    }
}
