//! Chooses the next sandbox to create, within the cap and the memory of the engine's host.

use svc_core::{
    data::{
        lease::{ItemLease, item},
        pg::{self, Tx},
    },
    id::SandboxId,
};

use super::{Creator, Job};
use crate::{
    app::{WORKER, served::Served},
    domain::{
        sandbox::{Cause, Sandbox},
        transition::{Input, next},
    },
    error::{Error, Result},
    store::{
        engines, pool, queue,
        sandboxes::{self as rows, ONE_CONTAINER_A_VOLUME, SandboxLeases},
    },
};

impl Creator {
    /// Takes the next queued sandbox of the engine and commits its creation; a sandbox for the pool only if
    /// `warm`. Returns `None` if it took none, for example because none is queued, the cap is reached, or the
    /// host has no memory left to allot.
    ///
    /// # Errors
    /// Any error; no sandbox is then taken, unless Postgres's answer to the commit was lost.
    pub async fn take_next(&self, warm: bool) -> Result<Option<Job>> {
        let served = self.deps.engine.get()?;
        let found = {
            let mut db = self.deps.pool.acquire().await?;
            match queue::next_queued(&mut db, &served.info.id, warm).await? {
                Some(id) => rows::find(&mut db, None, id).await?,
                None => None,
            }
        };
        let Some(sandbox) = found else { return Ok(None) };
        let Some(image) = served.engine.image(&sandbox.shape.image).await.known()? else {
            self.give_up(&sandbox, Cause::ImageMissing).await?;
            return Ok(None);
        };
        // Makes the run directory before the commit. No worker makes it afterwards, so it stays absent once a
        // removal has revoked it.
        let run_dir = served.run_dirs.make()?;
        let taken = self.commit(served, &sandbox, &run_dir, image).await;
        if !matches!(taken, Ok(Some(_)) | Err(Error::Pg(pg::Error::CommitUnknown(_)))) {
            let run_dirs = &served.run_dirs;
            run_dirs.revoke(&run_dir).and_then(|()| run_dirs.discard(&run_dir))?;
        }
        match taken {
            // Another worker took it, or the session's previous container still mounts the session's volume.
            Err(error) if error.is_race() => Ok(None),
            Err(Error::Pg(error)) if error.violates(ONE_CONTAINER_A_VOLUME) => Ok(None),
            taken => taken,
        }
    }

    async fn commit(
        &self,
        served: &Served,
        sandbox: &Sandbox,
        run_dir: &str,
        image: String,
    ) -> Result<Option<Job>> {
        let create = &self.deps.settings.create;
        let mut tx = Tx::system(&self.deps.pool).await?;
        if engines::lock_and_count_creating(&mut tx, &sandbox.engine).await? >= i64::from(create.cap) {
            return Ok(None);
        }
        // Allots memory under the same lock, so that two workers do not allot the same memory.
        let budget = memory_budget(served.info.memory_bytes, self.deps.settings.overcommit);
        let allotted = queue::allotted_memory(&mut tx, &sandbox.engine).await?;
        let needed = allotted.total + sandbox.shape.memory_bytes;
        if needed > budget {
            tracing::debug!(?allotted, budget, sandbox.id = %sandbox.id, "no memory left to allot");
            // A session's sandbox displaces one of the pool, unless pending removals will free enough memory.
            let displaces = !sandbox.warm && needed - allotted.deleting > budget;
            if displaces && self.shrink_pool(&mut tx, sandbox).await? {
                tx.commit().await?;
                self.deps.notices.work_for(&sandbox.engine).await;
            }
            return Ok(None);
        }
        let input = Input::Take { run_dir: run_dir.to_owned(), image, within: create.deadline };
        let Some(taken) = next(sandbox, input, self.deps.now())? else { return Ok(None) };
        rows::update(&mut tx, sandbox, &taken, Some((&self.holder, create.lease))).await?;
        tx.commit().await?;
        self.deps.notices.sandbox_changed(taken.id).await;
        let lease = ItemLease { id: taken.id.0, epoch: taken.epoch, owner: self.holder.clone() };
        Ok(Some(Job { sandbox: taken, lease }))
    }

    /// Commits the oldest pooled sandbox on the engine of `sandbox` to removal. Returns whether there was
    /// one.
    async fn shrink_pool(&self, tx: &mut Tx, sandbox: &Sandbox) -> Result<bool> {
        let Some(id) = pool::oldest(tx, &sandbox.engine).await? else { return Ok(false) };
        let Some(idle) = rows::lock(tx, None, id).await? else { return Ok(false) };
        if idle.slot.is_none() {
            return Ok(false);
        }
        Ok(self.deps.commit_removal(tx, &idle, Cause::Retired, WORKER).await?.is_some())
    }

    /// Takes over the creation of a sandbox. Returns `None` if another process has taken it since the caller
    /// read its epoch as `seen`.
    ///
    /// # Errors
    /// Any error of Postgres; this process then does not continue the creation.
    pub async fn take_over(&self, id: SandboxId, seen: i64) -> Result<Option<Job>> {
        let ttl = self.deps.settings.create.lease;
        let mut db = self.deps.pool.acquire().await?;
        let Some(lease) = item::take::<SandboxLeases>(&mut db, id.0, seen, &self.holder, ttl).await? else {
            return Ok(None);
        };
        let sandbox = rows::find(&mut db, None, id).await?;
        Ok(sandbox.filter(|sandbox| sandbox.epoch == lease.epoch).map(|sandbox| Job { sandbox, lease }))
    }

    /// Creates the next queued sandbox until it runs or fails. Returns whether there was one.
    ///
    /// # Errors
    /// The errors of [`Self::take_next`] and [`Self::create`].
    #[cfg(feature = "test-util")]
    pub async fn create_next(&self) -> Result<bool> {
        match self.take_next(true).await? {
            Some(job) => self.create(job).await.map(|()| true),
            None => Ok(false),
        }
    }
}

/// Returns how many bytes of memory may be allotted to the sandboxes of a host.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a share of a host's memory"
)]
fn memory_budget(memory_bytes: i64, overcommit: f64) -> i64 {
    (memory_bytes as f64 * overcommit) as i64
}
