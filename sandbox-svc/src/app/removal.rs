//! Carries out a committed removal in this order: run directory, container, confirmed absence, row.
//!
//! Any worker may repeat any step; the lease only keeps two workers from doing the same at once. A container
//! is removed by its full id. If the row has no id, the worker finds the container by its name and checks
//! that its labels name this sandbox. If the engine does not answer, the removal changes nothing.

use svc_core::{
    data::{lease::item, pg::Tx},
    id::SandboxId,
    run::failpoint,
};

use super::{Deps, served::Served};
use crate::{
    domain::{
        sandbox::{Container, Sandbox, State},
        spec::container_name,
        time::after,
        transition::{Input, InvalidTransition, next},
    },
    engine::{ContainerId, Handle, Removal},
    error::{Error, Result},
    store::{
        execs,
        sandboxes::{self as rows, SandboxLeases},
        volumes,
    },
};

/// Carries out removals as one holder of leases; cheap to clone.
#[derive(Debug, Clone)]
pub struct Remover {
    pub deps: Deps,
    /// The name of this process in leases.
    pub holder: String,
}

impl Remover {
    /// Removes the container and the other resources of a sandbox in `deleting`. Does nothing if another
    /// process has taken the removal since the caller read its epoch as `seen`. Releases the lease of an
    /// unfinished removal, so that the next worker can repeat it.
    ///
    /// # Errors
    /// Any error; the removal must then be repeated.
    pub async fn remove(&self, id: SandboxId, seen: i64) -> Result<()> {
        let ttl = self.deps.settings.create.lease + self.deps.settings.create.guest_deadline;
        let (lease, sandbox) = {
            let mut db = self.deps.pool.acquire().await?;
            let taken = item::take::<SandboxLeases>(&mut db, id.0, seen, &self.holder, ttl).await?;
            let Some(lease) = taken else { return Ok(()) };
            (lease, rows::find(&mut db, None, id).await?)
        };
        let held = |sandbox: &Sandbox| sandbox.state == State::Deleting && sandbox.epoch == lease.epoch;
        let Some(sandbox) = sandbox.filter(held) else { return Ok(()) };
        failpoint::hit("sandbox.remove.taken").await;
        let ended = self.run_steps(&sandbox).await;
        if !matches!(ended, Ok(true)) {
            let mut db = self.deps.pool.acquire().await?;
            item::release::<SandboxLeases>(&mut db, &lease).await?;
        }
        ended.map(|_| ())
    }

    /// Carries out the steps. Returns whether the sandbox is final.
    async fn run_steps(&self, sandbox: &Sandbox) -> Result<bool> {
        let served = self.deps.engine.get()?;
        if let Some(container) = &sandbox.container {
            if !self.remove_container(served, sandbox, container).await? {
                return Ok(false);
            }
            // Another daemon at the same address would report the container as absent, too.
            served.check_identity().await?;
        }
        failpoint::hit("sandbox.remove.absent").await;
        self.confirm_absence(served, sandbox.id).await
    }

    /// Removes the container. Returns whether its absence is confirmed.
    async fn remove_container(
        &self,
        served: &Served,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<bool> {
        // After this the engine refuses every create and start of this container.
        served.run_dirs.revoke(&container.run_dir)?;
        served.forget_guest(sandbox.id).await;
        let id = match &container.id {
            Some(id) => ContainerId(id.clone()),
            None => match self.find_by_name(served, sandbox, container).await? {
                Some(id) => id,
                None => return Ok(true),
            },
        };
        match served.engine.remove(Handle::Id(&id)).await? {
            Removal::Removed => failpoint::hit("sandbox.remove.removed").await,
            Removal::Absent => {}
            Removal::InProgress => tracing::debug!(container = %id, "removal is running already"),
        }
        Ok(served.engine.observe(Handle::Id(&id)).await.known()?.is_none())
    }

    /// Finds the container of an unconfirmed create by its name, and writes its id. Returns `None` if it is
    /// absent.
    async fn find_by_name(
        &self,
        served: &Served,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<Option<ContainerId>> {
        let name = container_name(sandbox.id, container.generation);
        let Some(found) = served.engine.observe(Handle::Name(&name)).await.known()? else { return Ok(None) };
        if found.sandbox() != Some((sandbox.id, container.generation)) {
            tracing::error!(container = %found.id, name, "another container has the sandbox's name");
            return Ok(None);
        }
        self.deps.confirm_id(sandbox, &found.id).await?;
        Ok(Some(found.id))
    }

    /// Writes that a sandbox is final, marks its running calls as in doubt, and starts its workspace's
    /// retention. Returns `false` if a create of its container may still be under way.
    async fn confirm_absence(&self, served: &Served, id: SandboxId) -> Result<bool> {
        let now = self.deps.now();
        // The transaction does not check custody, because the removals of a frozen subject end here, too.
        let mut tx = Tx::system(&self.deps.pool).await?;
        let Some(sandbox) = rows::lock(&mut tx, None, id).await? else { return Ok(true) };
        let gone = match next(&sandbox, Input::Absent, now) {
            Ok(Some(gone)) => gone,
            Ok(None) => return Ok(true),
            Err(InvalidTransition::TooEarly(_)) => return Ok(false),
            Err(refused) => return Err(Error::InvalidTransition(refused)),
        };
        rows::update(&mut tx, &sandbox, &gone, None).await?;
        let unsettled = execs::mark_in_doubt(&mut tx, sandbox.id, now).await?;
        let retain_until = match sandbox.owner {
            Some(_) => after(now, self.deps.settings.lifetimes.volume_retention),
            None => now,
        };
        volumes::release(&mut tx, sandbox.volume, retain_until).await?;
        tx.commit().await?;
        self.deps.metrics.ended(gone.cause);
        tracing::info!(
            sandbox.id = %sandbox.id,
            state = ?gone.state,
            cause = ?gone.cause,
            calls.in_doubt = unsettled,
            "sandbox ended"
        );
        if let Some(container) = &sandbox.container {
            served.run_dirs.discard(&container.run_dir)?;
        }
        // Wakes the session's next sandbox, which may wait for the workspace.
        self.deps.notices.removal_committed(&sandbox).await;
        Ok(true)
    }
}
