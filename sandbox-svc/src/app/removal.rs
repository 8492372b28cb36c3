//! Carrying out a committed removal: run directory, container, confirmed absence, and only then the row.
//!
//! Every step can be repeated, by anybody: the lease only keeps workers from doing the same at once. A container is
//! removed by its full id and only if its labels say that it is this sandbox's; what else has its name is not ours
//! to touch. An engine that does not answer changes nothing.

use svc_core::{
    data::{lease::item, pg::Tx},
    id::SandboxId,
    run::failpoint,
};

use super::{Context, Served};
use crate::{
    domain::sandbox::{Container, Input, Refused, Sandbox, State, after, next},
    engine::{self, ContainerId, Handle, Observed, Removal},
    error::{Error, Result},
    run_dirs,
    store::{
        execs,
        sandboxes::{self, SandboxLeases},
        volumes,
    },
};

/// Removes what there is of a sandbox that is being deleted, if nobody else does. What could not be finished is
/// tried again by whoever looks next.
///
/// # Errors
/// [`Error`] if it could not be finished.
pub async fn remove(ctx: &Context, served: &Served, id: SandboxId, seen: i64, owner: &str) -> Result<()> {
    let ttl = ctx.settings.create.lease + ctx.settings.create.guest_deadline;
    let (lease, sandbox) = {
        let mut db = ctx.pool.acquire().await?;
        let Some(lease) = item::take::<SandboxLeases>(&mut db, id.0, seen, owner, ttl).await? else {
            return Ok(());
        };
        (lease, sandboxes::find(&mut db, None, id).await?)
    };
    let ours = |sandbox: &Sandbox| sandbox.state == State::Deleting && sandbox.epoch == lease.epoch;
    let Some(sandbox) = sandbox.filter(ours) else { return Ok(()) };
    failpoint::hit("sandbox.remove.taken").await;
    let ended = steps(ctx, served, &sandbox).await;
    if !matches!(ended, Ok(true)) {
        let mut db = ctx.pool.acquire().await?;
        item::release::<SandboxLeases>(&mut db, &lease).await?;
    }
    ended.map(|_| ())
}

/// Answers whether the sandbox is final.
async fn steps(ctx: &Context, served: &Served, sandbox: &Sandbox) -> Result<bool> {
    if let Some(container) = &sandbox.container
        && !remove_container(ctx, served, sandbox, container).await?
    {
        return Ok(false);
    }
    if sandbox.container.is_some() {
        // On another daemon at the same address it would be absent, too.
        served.still_itself().await?;
    }
    failpoint::hit("sandbox.remove.absent").await;
    confirm(ctx, served, sandbox.id).await
}

/// Removes the container, and answers whether it is seen to be absent.
async fn remove_container(
    ctx: &Context,
    served: &Served,
    sandbox: &Sandbox,
    container: &Container,
) -> Result<bool> {
    // From here on the engine refuses every create and start of it.
    served.run_dirs.revoke(&container.run_dir).map_err(host)?;
    served.forget_guest(sandbox.id).await;
    let identity = ctx.identity(sandbox, container);
    let name = identity.name();
    let id = match &container.id {
        Some(id) => ContainerId(id.clone()),
        None => match served.engine.observe(Handle::Name(&name)).await {
            Observed::Absent => return Ok(true),
            Observed::Unknown(error) => return Err(error.into()),
            Observed::Present(found) => {
                if found.sandbox() != Some((sandbox.id, container.generation)) {
                    tracing::error!(container = %found.id, name, "another container has the sandbox's name");
                    return Ok(true);
                }
                let known = Input::Made { container: found.id.0.clone() };
                confirm_id(ctx, sandbox, known).await?;
                found.id
            }
        },
    };
    match served.engine.remove(Handle::Id(&id)).await? {
        Removal::Removed => failpoint::hit("sandbox.remove.removed").await,
        Removal::Absent => {}
        Removal::InProgress => tracing::debug!(container = %id, "removal is under way already"),
    }
    match served.engine.observe(Handle::Id(&id)).await {
        Observed::Absent => Ok(true),
        Observed::Present(_) => Ok(false),
        Observed::Unknown(error) => Err(error.into()),
    }
}

/// Notes the id of a container that was found by its name.
async fn confirm_id(ctx: &Context, sandbox: &Sandbox, found: Input) -> Result<()> {
    let Some(known) = next(sandbox, found, ctx.now())? else { return Ok(()) };
    let mut tx = Tx::system(&ctx.pool).await?;
    sandboxes::update(&mut tx, sandbox, &known, None).await?;
    Ok(tx.commit().await?)
}

/// Writes that a sandbox is gone; its calls that still run are in doubt for ever, and its workspace is let go.
async fn confirm(ctx: &Context, served: &Served, id: SandboxId) -> Result<bool> {
    let now = ctx.now();
    // No custody row: this is how an erasure's own removals end, too.
    let mut tx = Tx::system(&ctx.pool).await?;
    let Some(sandbox) = sandboxes::lock(&mut tx, None, id).await? else { return Ok(true) };
    let gone = match next(&sandbox, Input::Absent, now) {
        Ok(Some(gone)) => gone,
        Ok(None) => return Ok(true),
        // A create that nobody remembers may still be under way.
        Err(Refused::TooEarly(_)) => return Ok(false),
        Err(refused) => return Err(Error::Refused(refused)),
    };
    sandboxes::update(&mut tx, &sandbox, &gone, None).await?;
    let doubted = execs::doubt_all(&mut tx, sandbox.id, now).await?;
    let retain_until = match sandbox.owner {
        Some(_) => after(now, ctx.settings.lifetimes.volume_retention),
        None => now,
    };
    volumes::release(&mut tx, sandbox.volume, retain_until).await?;
    tx.commit().await?;
    tracing::info!(sandbox.id = %sandbox.id, state = ?gone.state, cause = ?gone.cause, doubted, "sandbox ended");
    if let Some(container) = &sandbox.container {
        served.run_dirs.discard(&container.run_dir).map_err(host)?;
    }
    ctx.tell(sandbox.id).await;
    // Whoever waits for its volume.
    ctx.tell_workers(&sandbox.engine).await;
    Ok(true)
}

fn host(error: run_dirs::Error) -> engine::Error {
    engine::Error::Unreachable(Box::new(error))
}
