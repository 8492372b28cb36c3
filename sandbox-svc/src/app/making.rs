//! Making the container of a sandbox, under a lease on its row.
//!
//! What is asked of the engine is committed before: name, run directory and image are in the row as it turns
//! `creating`. So a worker that dies is followed by another that repeats the same request, meets what the first one
//! made by its name, and goes on with it if it is what was asked for. A worker that lost its lease or its sandbox
//! can do no harm: without the run directory, which goes with the first step of a removal, the engine neither makes
//! nor starts the container.

use std::time::Duration;

use chrono::{DateTime, Utc};
use svc_core::{
    data::{
        lease::{ItemLease, item},
        pg::{self, Tx},
    },
    run::{backoff::Backoff, failpoint, telemetry},
};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::{Context, Served, lifecycle::end, volume_name};
use crate::{
    client::guest::Guest,
    domain::{
        pool::PoolState,
        sandbox::{Cause, Container, Input, Sandbox, State, next},
        spec::{ContainerSpec, VolumeSpec, label},
    },
    engine::{self, ContainerId, ContainerState, Handle, Observed},
    error::{Error, Result},
    store::{
        engines, pool, queue,
        sandboxes::{self, ONE_CONTAINER_A_VOLUME, SandboxLeases},
    },
};

/// Who the audit log names for what a worker does by itself.
pub const WORKER: &str = "sandbox-svc";

/// Delay before an engine that did not answer is asked again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Starts of a container that the engine refuses to start: what is passing passes.
const STARTS: u32 = 3;
/// How often the guest is tried, and after how many tries its container is looked at.
const GUEST_POLL: Duration = Duration::from_millis(10);
const GUEST_TRIES_A_LOOK: u32 = 50;

/// A sandbox to be made, and the right to make it.
#[derive(Debug)]
pub struct Job {
    /// The sandbox, as it was taken.
    pub sandbox: Sandbox,
    /// The lease on its row.
    pub lease: ItemLease,
}

/// Why a sandbox was not made.
#[derive(Debug)]
enum Stop {
    /// It cannot be made, and is to be removed for this.
    Hopeless(Cause),
    /// Something else stopped it: it stays as it is, for whoever takes it next.
    Other(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Takes the next queued sandbox of the engine, unless as many as may be are being made; of the pool only if `warm`.
///
/// # Errors
/// [`Error`]; nothing is taken then.
pub async fn take_next(ctx: &Context, served: &Served, owner: &str, warm: bool) -> Result<Option<Job>> {
    let engine = &served.info.id;
    let found = {
        let mut db = ctx.pool.acquire().await?;
        match queue::next_queued(&mut db, engine, warm).await? {
            Some(id) => sandboxes::find(&mut db, None, id).await?,
            None => None,
        }
    };
    let Some(sandbox) = found else { return Ok(None) };
    let image = match served.engine.image(&sandbox.shape.image).await {
        Observed::Present(image) => image,
        Observed::Absent => {
            give_up(ctx, &sandbox, Cause::ImageMissing).await?;
            return Ok(None);
        }
        Observed::Unknown(error) => return Err(error.into()),
    };
    // Before the commit: once a removal has taken the directory away, nobody makes it again.
    let run_dir = served.run_dirs.make().map_err(engine_host)?;
    let taken = take(ctx, &sandbox, &run_dir, image, owner, promisable(ctx, served)).await;
    if !matches!(taken, Ok(Some(_)) | Err(Error::Pg(pg::Error::CommitUnknown(_)))) {
        served
            .run_dirs
            .revoke(&run_dir)
            .and_then(|()| served.run_dirs.discard(&run_dir))
            .map_err(engine_host)?;
    }
    match taken {
        // Somebody else was faster, or the last container with its volume still is.
        Err(error) if error.is_race() => Ok(None),
        Err(Error::Pg(error)) if error.violates(ONE_CONTAINER_A_VOLUME) => Ok(None),
        taken => taken,
    }
}

/// Memory that may be promised to the sandboxes of an engine.
fn promisable(ctx: &Context, served: &Served) -> i64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a share of a host's memory"
    )]
    let bytes = (served.info.memory_bytes as f64 * ctx.settings.overcommit) as i64;
    bytes
}

async fn take(
    ctx: &Context,
    sandbox: &Sandbox,
    run_dir: &str,
    image: String,
    owner: &str,
    promisable: i64,
) -> Result<Option<Job>> {
    let create = &ctx.settings.create;
    let mut tx = Tx::system(&ctx.pool).await?;
    if engines::lock_and_count_creating(&mut tx, &sandbox.engine).await? >= i64::from(create.cap) {
        return Ok(None);
    }
    // Under the same lock, so that two workers do not promise the same memory.
    let promised = queue::promised_memory(&mut tx, &sandbox.engine).await?;
    let needed = promised.all + sandbox.shape.memory_bytes;
    if needed > promisable {
        tracing::debug!(promised = promised.all, promisable, sandbox.id = %sandbox.id, "no memory left to promise");
        // The pool gives way to whoever waits, one place at a time: what goes already may be enough.
        if !sandbox.warm && needed - promised.going > promisable && shrink_pool(ctx, &mut tx, sandbox).await?
        {
            tx.commit().await?;
            ctx.tell_workers(&sandbox.engine).await;
        }
        return Ok(None);
    }
    let input = Input::Take { run_dir: run_dir.to_owned(), image, within: create.deadline };
    let Some(taken) = next(sandbox, input, ctx.now())? else { return Ok(None) };
    sandboxes::update(&mut tx, sandbox, &taken, Some((owner, create.lease))).await?;
    tx.commit().await?;
    ctx.tell(taken.id).await;
    let lease = ItemLease { id: taken.id.0, epoch: taken.epoch, owner: owner.to_owned() };
    Ok(Some(Job { sandbox: taken, lease }))
}

/// Retires the oldest sandbox of the pool beside `sandbox`, if there is one.
async fn shrink_pool(ctx: &Context, tx: &mut Tx, sandbox: &Sandbox) -> Result<bool> {
    let Some(id) = pool::oldest(tx, &sandbox.engine).await? else { return Ok(false) };
    let Some(idle) = sandboxes::lock(tx, None, id).await? else { return Ok(false) };
    Ok(idle.slot.is_some() && end(ctx, tx, &idle, Cause::Retired, WORKER).await?.is_some())
}

/// Takes over a sandbox that nobody makes any more, if its epoch is still `seen`.
///
/// # Errors
/// [`Error`]; nothing is taken then.
pub async fn take_over(
    ctx: &Context,
    id: svc_core::id::SandboxId,
    seen: i64,
    owner: &str,
) -> Result<Option<Job>> {
    let mut db = ctx.pool.acquire().await?;
    let Some(lease) =
        item::take::<SandboxLeases>(&mut db, id.0, seen, owner, ctx.settings.create.lease).await?
    else {
        return Ok(None);
    };
    let sandbox = sandboxes::find(&mut db, None, id).await?;
    Ok(sandbox.filter(|sandbox| sandbox.epoch == lease.epoch).map(|sandbox| Job { sandbox, lease }))
}

/// Makes the container and waits for its guest. Whatever happens, the row says so, or stays for the next worker.
/// It is done in the trace of whoever waits for the sandbox, or in one of its own for the pool.
///
/// # Errors
/// [`Error`] if it stays.
pub async fn make(ctx: &Context, served: &Served, job: Job) -> Result<()> {
    let traceparent = {
        let mut db = ctx.pool.acquire().await?;
        sandboxes::trace(&mut db, job.sandbox.id).await?
    };
    let span = tracing::info_span!(
        "sandbox.make",
        otel.kind = "internal",
        sandbox.id = %job.sandbox.id,
        sandbox.epoch = job.lease.epoch,
        sandbox.warm = job.sandbox.warm,
    );
    telemetry::follow(&span, traceparent.as_deref());
    make_traced(ctx, served, job).instrument(span).await
}

async fn make_traced(ctx: &Context, served: &Served, job: Job) -> Result<()> {
    failpoint::hit("sandbox.create.taken").await;
    let soft = ctx.lifecycle.soft();
    let made = tokio::select! {
        made = steps(ctx, served, job.sandbox.clone()) => made,
        lost = keep(ctx, &job.lease) => Err(lost.into()),
        () = soft.cancelled() => {
            let mut db = ctx.pool.acquire().await?;
            item::release::<SandboxLeases>(&mut db, &job.lease).await?;
            return Ok(());
        }
    };
    match made {
        Ok(()) => Ok(()),
        Err(Stop::Hopeless(cause)) => {
            tracing::warn!(sandbox.id = %job.sandbox.id, ?cause, "sandbox cannot be made");
            give_up(ctx, &job.sandbox, cause).await
        }
        // Deleted, or taken over: theirs now.
        Err(Stop::Other(error)) if error.is_race() => Ok(()),
        Err(Stop::Other(error)) => Err(error),
    }
}

/// Renews the lease until it is lost.
async fn keep(ctx: &Context, lease: &ItemLease) -> pg::Error {
    let ttl = ctx.settings.create.lease;
    loop {
        sleep(ttl / 3).await;
        let renewed = async {
            let mut db = ctx.pool.acquire().await?;
            item::renew::<SandboxLeases>(&mut db, lease, ttl).await
        };
        match renewed.await {
            Ok(()) => {}
            Err(error @ pg::Error::Fenced(_)) => return error,
            // It runs on until somebody takes it; the epoch tells.
            Err(error) => tracing::debug!(%error, "sandbox lease not renewed"),
        }
    }
}

async fn steps(ctx: &Context, served: &Served, sandbox: Sandbox) -> Result<(), Stop> {
    let Some(container) = sandbox.container.clone() else { return Err(Stop::Hopeless(Cause::EngineRefused)) };
    let spec = spec(ctx, served, &sandbox, &container);
    let until = Deadline { clock: ctx, at: sandbox.deadline_at };
    make_volume(ctx, served, &sandbox, &until).await?;
    failpoint::hit("sandbox.create.sending").await;
    let id = make_container(served, &spec, &until).await?;
    failpoint::hit("sandbox.create.made").await;
    let sandbox = record(ctx, &sandbox, Input::Made { container: id.0.clone() }).await?;
    start(served, &id, &until).await?;
    failpoint::hit("sandbox.create.started").await;
    let instance = greet(ctx, served, &sandbox, &container, &id).await?;
    // Before anything of a tenant runs.
    served.run_dirs.seal(&container.run_dir).map_err(engine_host)?;
    ready(ctx, &sandbox, instance).await?;
    ctx.tell(sandbox.id).await;
    Ok(())
}

fn spec(ctx: &Context, served: &Served, sandbox: &Sandbox, container: &Container) -> ContainerSpec {
    let identity = ctx.identity(sandbox, container);
    let places = ctx.places(served, sandbox, container);
    ContainerSpec::of(&identity, &sandbox.shape, &container.image, &places, sandbox.created_at)
}

/// The volume's labels, for whoever finds it without its row.
pub fn volume_spec(ctx: &Context, sandbox: &Sandbox) -> VolumeSpec {
    VolumeSpec {
        name: volume_name(sandbox.volume),
        labels: [
            (label::INSTALLATION, ctx.settings.installation.clone()),
            (label::ENGINE, sandbox.engine.clone()),
            (label::VOLUME, sandbox.volume.to_string()),
        ]
        .into(),
    }
}

/// Until when a sandbox must be made.
struct Deadline<'a> {
    clock: &'a Context,
    at: DateTime<Utc>,
}

impl Deadline<'_> {
    /// Waits before the next try after `failures`, or says that there is none.
    async fn again(&self, failures: u32) -> Result<(), Stop> {
        // No randomness needed: one engine, few workers.
        sleep(AGAIN.delay(failures, 0.5)).await;
        match self.clock.now() < self.at {
            true => Ok(()),
            false => Err(Stop::Hopeless(Cause::CreateTimeout)),
        }
    }
}

async fn make_volume(
    ctx: &Context,
    served: &Served,
    sandbox: &Sandbox,
    until: &Deadline<'_>,
) -> Result<(), Stop> {
    let spec = volume_spec(ctx, sandbox);
    for failures in 1.. {
        match served.engine.create_volume(&spec).await {
            Ok(()) => return Ok(()),
            Err(engine::Error::Conflict(_) | engine::Error::Refused { .. } | engine::Error::NoSuch) => {
                return Err(Stop::Hopeless(Cause::EngineRefused));
            }
            Err(error) => tracing::debug!(%error, volume = spec.name, "volume not made yet"),
        }
        until.again(failures).await?;
    }
    Ok(())
}

/// Makes the container, or finds that it was made.
async fn make_container(
    served: &Served,
    spec: &ContainerSpec,
    until: &Deadline<'_>,
) -> Result<ContainerId, Stop> {
    for failures in 1.. {
        let unknown = match served.engine.create(spec).await {
            Ok(id) => return Ok(id),
            Err(engine::Error::NoSuch) => return Err(Stop::Hopeless(Cause::ImageMissing)),
            Err(engine::Error::Refused { status, message }) => {
                tracing::warn!(status, message, container = spec.name, "engine refused a container");
                return Err(Stop::Hopeless(Cause::EngineRefused));
            }
            // The name is taken, or nobody knows: whatever has the name tells.
            Err(unknown) => unknown,
        };
        match served.engine.observe(Handle::Name(&spec.name)).await {
            Observed::Present(found) if found.is_of(spec) => return Ok(found.id),
            Observed::Present(found) => {
                tracing::error!(container = %found.id, name = spec.name, "another container has the sandbox's name");
                return Err(Stop::Hopeless(Cause::EngineRefused));
            }
            Observed::Absent | Observed::Unknown(_) => {
                tracing::debug!(error = %unknown, container = spec.name, "container not made yet");
            }
        }
        until.again(failures).await?;
    }
    Err(Stop::Hopeless(Cause::CreateTimeout))
}

async fn start(served: &Served, id: &ContainerId, until: &Deadline<'_>) -> Result<(), Stop> {
    let mut refusals = 0;
    for failures in 1.. {
        match served.engine.start(id).await {
            Ok(()) => return Ok(()),
            Err(engine::Error::NoSuch) => return Err(Stop::Hopeless(Cause::ContainerLost)),
            Err(error @ (engine::Error::Refused { .. } | engine::Error::Failed { .. })) => {
                refusals += 1;
                tracing::warn!(%error, container = %id, refusals, "engine did not start a container");
            }
            Err(error) => tracing::debug!(%error, container = %id, "container not started yet"),
        }
        match served.engine.observe(Handle::Id(id)).await {
            Observed::Present(found) if found.state == ContainerState::Running => return Ok(()),
            Observed::Present(found) if found.state == ContainerState::Exited && refusals == 0 => {
                return Err(Stop::Hopeless(Cause::ContainerExited));
            }
            Observed::Absent => return Err(Stop::Hopeless(Cause::ContainerLost)),
            Observed::Present(_) | Observed::Unknown(_) if refusals < STARTS => {}
            Observed::Present(_) | Observed::Unknown(_) => return Err(Stop::Hopeless(Cause::EngineRefused)),
        }
        until.again(failures).await?;
    }
    Err(Stop::Hopeless(Cause::CreateTimeout))
}

/// Waits for the guest and asks who it is.
async fn greet(
    ctx: &Context,
    served: &Served,
    sandbox: &Sandbox,
    container: &Container,
    id: &ContainerId,
) -> Result<String, Stop> {
    let run_dir = served.run_dirs.path(&container.run_dir);
    let until = Instant::now() + ctx.settings.create.guest_deadline;
    for tries in 1.. {
        let hello = async { Guest::connect(&run_dir).await?.hello().await };
        match hello.await {
            Ok(hello)
                if hello.sandbox_id == sandbox.id.to_string() && hello.generation == container.generation =>
            {
                return Ok(hello.instance);
            }
            Ok(_) => return Err(Stop::Hopeless(Cause::GuestSilent)),
            Err(error) => tracing::trace!(%error, sandbox.id = %sandbox.id, "guest does not answer yet"),
        }
        if tries % GUEST_TRIES_A_LOOK == 0
            && let Observed::Present(found) = served.engine.observe(Handle::Id(id)).await
            && found.state == ContainerState::Exited
        {
            return Err(Stop::Hopeless(Cause::ContainerExited));
        }
        if Instant::now() >= until {
            return Err(Stop::Hopeless(Cause::GuestSilent));
        }
        sleep(GUEST_POLL).await;
    }
    Err(Stop::Hopeless(Cause::GuestSilent))
}

/// Writes what became of a sandbox that this worker holds.
async fn record(ctx: &Context, sandbox: &Sandbox, input: Input) -> Result<Sandbox> {
    let Some(after) = next(sandbox, input, ctx.now())? else { return Ok(sandbox.clone()) };
    let mut tx = Tx::system(&ctx.pool).await?;
    sandboxes::update(&mut tx, sandbox, &after, None).await?;
    tx.commit().await?;
    Ok(after)
}

/// Writes that a sandbox runs. In the pool it takes its place from the one it replaces, which is retired.
async fn ready(ctx: &Context, sandbox: &Sandbox, instance: String) -> Result<()> {
    let input = Input::Ready { instance, within: ctx.settings.lifetimes.idle };
    let Some(after) = next(sandbox, input, ctx.now())? else { return Ok(()) };
    let mut tx = Tx::system(&ctx.pool).await?;
    if let Some(slot) = after.slot {
        let replaced = pool::in_slot(&mut tx, &sandbox.engine, slot.number, PoolState::Available).await?;
        if let Some(id) = replaced
            && let Some(replaced) = sandboxes::lock(&mut tx, None, id).await?
            && replaced.slot == Some(slot)
        {
            end(ctx, &mut tx, &replaced, Cause::Retired, WORKER).await?;
        }
    }
    sandboxes::update(&mut tx, sandbox, &after, None).await?;
    tx.commit().await?;
    Ok(())
}

/// Commits a sandbox that cannot be made to its removal, unless it changed meanwhile.
async fn give_up(ctx: &Context, sandbox: &Sandbox, cause: Cause) -> Result<()> {
    let mut tx = Tx::system(&ctx.pool).await?;
    let Some(now) = sandboxes::lock(&mut tx, None, sandbox.id).await? else { return Ok(()) };
    if now.epoch != sandbox.epoch || !matches!(now.state, State::Requested | State::Creating) {
        return Ok(());
    }
    end(ctx, &mut tx, &now, cause, WORKER).await?;
    tx.commit().await?;
    ctx.tell(sandbox.id).await;
    ctx.tell_workers(&sandbox.engine).await;
    Ok(())
}

/// A failure of the engine's host: as little the caller's as one of the engine.
fn engine_host(error: crate::run_dirs::Error) -> engine::Error {
    engine::Error::Unreachable(Box::new(error))
}
