//! Creates the containers of sandboxes, under a lease on the sandbox's row.
//!
//! The row names the container, its run directory and its image before the engine is asked. So when a worker
//! dies, the next one repeats the same request, finds the container of the first worker by its name, and
//! adopts it if it matches. A worker that resumes after its sandbox was deleted creates no container: a
//! removal first revokes the run directory, and without it the engine neither creates nor starts the
//! container.
//!
//! [`take`] chooses a sandbox and commits its creation, [`container`] asks the engine for each step.

mod container;
mod take;

use svc_core::{
    data::{
        lease::{ItemLease, item},
        pg::Tx,
    },
    run::{failpoint, telemetry},
};
use tracing::Instrument;

use super::{Deps, WORKER, served::Served};
use crate::{
    domain::{
        pool::PoolState,
        sandbox::{Cause, Sandbox},
        transition::{Input, next},
    },
    error::{Error, Result},
    store::{
        pool,
        sandboxes::{self as rows, SandboxLeases},
    },
};

/// A sandbox to create, with the lease that allows it.
#[derive(Debug)]
pub struct Job {
    /// The sandbox as it was taken.
    pub sandbox: Sandbox,
    /// The lease on its row.
    pub lease: ItemLease,
}

/// Why a sandbox was not created.
#[derive(Debug)]
enum Abort {
    /// No further attempt can succeed; the sandbox is committed to removal for this cause.
    GiveUp(Cause),
    /// The sandbox stays as it is, and the next worker continues.
    Retry(Error),
}

impl<E: Into<Error>> From<E> for Abort {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// Creates sandboxes as one holder of leases; cheap to clone.
#[derive(Debug, Clone)]
pub struct Creator {
    pub deps: Deps,
    /// The name of this process in leases.
    pub holder: String,
}

impl Creator {
    /// Creates the container of a taken sandbox and waits for its guest. Its spans belong to the trace of the
    /// request that asked for the sandbox. A sandbox that cannot be created is committed to removal.
    ///
    /// # Errors
    /// Any error; the next worker then continues the creation.
    pub async fn create(&self, job: Job) -> Result<()> {
        let traceparent = {
            let mut db = self.deps.pool.acquire().await?;
            rows::trace(&mut db, job.sandbox.id).await?
        };
        let span = tracing::info_span!(
            "sandbox.make",
            otel.kind = "internal",
            sandbox.id = %job.sandbox.id,
            sandbox.epoch = job.lease.epoch,
            sandbox.warm = job.sandbox.warm,
        );
        telemetry::follow(&span, traceparent.as_deref());
        self.create_traced(job).instrument(span).await
    }

    async fn create_traced(&self, job: Job) -> Result<()> {
        failpoint::hit("sandbox.create.taken").await;
        let (soft, ttl) = (self.deps.lifecycle.soft(), self.deps.settings.create.lease);
        let created = tokio::select! {
            created = self.run_steps(&job.sandbox) => created,
            lost = item::keep::<SandboxLeases>(&self.deps.pool, &job.lease, ttl) => Err(lost.into()),
            () = soft.cancelled() => {
                let mut db = self.deps.pool.acquire().await?;
                item::release::<SandboxLeases>(&mut db, &job.lease).await?;
                return Ok(());
            }
        };
        match created {
            Ok(()) => Ok(()),
            Err(Abort::GiveUp(cause)) => {
                tracing::warn!(sandbox.id = %job.sandbox.id, ?cause, "sandbox cannot be created");
                self.give_up(&job.sandbox, cause).await
            }
            // The sandbox was deleted or taken over meanwhile, so this worker leaves it.
            Err(Abort::Retry(error)) if error.is_race() => Ok(()),
            Err(Abort::Retry(error)) => Err(error),
        }
    }

    async fn run_steps(&self, sandbox: &Sandbox) -> Result<(), Abort> {
        let served = self.deps.engine.get()?;
        let Some(container) = &sandbox.container else { return Err(Abort::GiveUp(Cause::EngineRefused)) };
        let steps = container::Steps { deps: &self.deps, served, sandbox, container };
        steps.create_volume().await?;
        failpoint::hit("sandbox.create.sending").await;
        let id = steps.create_container().await?;
        failpoint::hit("sandbox.create.made").await;
        let sandbox = self.deps.confirm_id(sandbox, &id).await?;
        steps.start(&id).await?;
        failpoint::hit("sandbox.create.started").await;
        let instance = steps.await_guest(&id).await?;
        // The directory is sealed before any command of the session runs.
        served.run_dirs.seal(&container.run_dir)?;
        self.mark_running(served, &sandbox, instance).await?;
        self.deps.notices.sandbox_changed(sandbox.id).await;
        Ok(())
    }

    /// Writes that a sandbox runs. If it is in the pool, commits the sandbox that it replaces to removal.
    async fn mark_running(&self, served: &Served, sandbox: &Sandbox, instance: String) -> Result<()> {
        let input = Input::Ready { instance, within: self.deps.settings.lifetimes.idle };
        let Some(after) = next(sandbox, input, self.deps.now())? else { return Ok(()) };
        let mut tx = Tx::system(&self.deps.pool).await?;
        if let Some(slot) = after.slot {
            let replaced = pool::in_slot(&mut tx, &served.info.id, slot.number, PoolState::Available).await?;
            if let Some(id) = replaced
                && let Some(replaced) = rows::lock(&mut tx, None, id).await?
                && replaced.slot == Some(slot)
            {
                self.deps.commit_removal(&mut tx, &replaced, Cause::Retired, WORKER).await?;
            }
        }
        rows::update(&mut tx, sandbox, &after, None).await?;
        tx.commit().await?;
        self.deps.metrics.created(&after, self.deps.now() - after.created_at);
        Ok(())
    }

    /// Commits a sandbox that cannot be created to its removal, unless it changed meanwhile.
    async fn give_up(&self, sandbox: &Sandbox, cause: Cause) -> Result<()> {
        let unchanged =
            |now: &Sandbox| (now.epoch == sandbox.epoch && now.state.is_pending()).then_some(cause);
        self.deps.end(Tx::system(&self.deps.pool).await?, sandbox.id, unchanged).await.map(drop)
    }
}
