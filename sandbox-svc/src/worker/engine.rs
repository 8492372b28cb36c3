//! Waits until the engine reports its id, then starts the tasks that work on it. Later it records every
//! minute that the engine still answers.

use std::{path::PathBuf, time::Duration};

use svc_core::{
    data::{lease::Singleton, redis::Redis},
    error::Chain,
    run::backoff::Backoff,
};

use super::{
    PassLease, creator,
    host::{self, HostLevel},
    pool, reconcile, remover,
};
use crate::{
    app::{Deps, deadlines, served::Served, workspaces},
    engine::SharedEngine,
    error::Error,
    run_dirs::RunDirectories,
};

/// Delay before an engine that did not report its id is asked again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// Time between two records that the engine answers.
const SEEN_PERIOD: Duration = Duration::from_secs(60);

/// The engine that this process serves, and what its workers need.
#[derive(Debug)]
pub struct EngineDeps {
    pub engine: SharedEngine,
    pub run_dirs: RunDirectories,
    /// Redis, for the leases of tasks that one replica runs.
    pub redis: Redis,
    /// The name of this process in leases.
    pub holder: String,
    /// Directory in which the kernel of the engine's host shows its state.
    pub proc_root: PathBuf,
    /// Time between two samples of the host.
    pub sample_period: Duration,
}

/// Serves the engine once it has reported its id.
pub fn start(deps: &Deps, engine: EngineDeps) {
    let lifecycle = deps.lifecycle.clone();
    let deps = deps.clone();
    drop(lifecycle.spawn("engine", async move {
        let soft = deps.lifecycle.soft();
        let served = tokio::select! {
            served = identify(&deps, &engine) => served,
            () = soft.cancelled() => return,
        };
        tracing::info!(engine.id = served.info.id, "engine is served");
        start_workers(&deps, &engine, &served.info.id);
    }));
}

/// Asks the engine for its id until it answers, registers the engine, and sets it in `deps.engine`.
async fn identify<'a>(deps: &'a Deps, engine: &EngineDeps) -> &'a Served {
    let mut failures = 0;
    loop {
        let identified = async {
            let info = engine.engine.info().await?;
            let served = Served::new(info, engine.engine.clone(), engine.run_dirs.clone());
            served.register(&deps.pool, &deps.clock).await?;
            Ok::<_, Error>(served)
        };
        match identified.await {
            Ok(served) => return deps.engine.fill(served),
            Err(error) => tracing::warn!(error = %Chain(&error), "engine is not known yet"),
        }
        failures += 1;
        tokio::time::sleep(RETRY.ceiling(failures)).await;
    }
}

fn start_workers(deps: &Deps, engine: &EngineDeps, engine_id: &str) {
    let (lifecycle, settings) = (&deps.lifecycle, &deps.settings);
    let lease = |task: &str| {
        let name = format!("sandbox.{task}/{engine_id}");
        let ttl = settings.reconcile.lease;
        PassLease { singleton: Singleton::new(name, ttl, &engine.redis, &deps.pool, lifecycle), held: None }
    };
    let level = HostLevel::default();
    host::start(deps, engine.proc_root.clone(), engine.sample_period, &level);
    creator::start(deps, &level, &engine.holder);
    remover::start(deps, &engine.holder);
    pool::start(deps, &level, lease("pool"));
    reconcile::start(deps, lease("reconcile"));
    let swept = deps.clone();
    lifecycle.every("sandbox deadlines", settings.lifetimes.sweep_period, move || {
        let deps = swept.clone();
        async move { Ok(deadlines::sweep(&deps).await.map(drop)?) }
    });
    let lease = std::sync::Arc::new(tokio::sync::Mutex::new(lease("volumes")));
    let due = deps.clone();
    lifecycle.every("workspace removal", settings.reconcile.period, move || {
        let (deps, lease) = (due.clone(), lease.clone());
        async move {
            match lease.lock().await.hold().await? {
                Some(held) => Ok(workspaces::remove_due(&deps, held).await?),
                None => Ok(()),
            }
        }
    });
    let seen = deps.clone();
    lifecycle.every("engine seen", SEEN_PERIOD, move || {
        let deps = seen.clone();
        async move {
            let served = deps.engine.get()?;
            served.check_identity().await?;
            Ok(served.register(&deps.pool, &deps.clock).await?)
        }
    });
}
