//! Compares what the engine and its host have with what the rows say, both ways.
//!
//! Order is what makes it safe: running rows are read *before* the listing, so that a container that is not listed
//! was not there although its row said so; other rows are read *after* it, so that a container without a row has
//! none although it was there. A listing counts only if it is complete and comes from the engine it is thought to
//! come from. Whatever is found must be found twice, a period apart, under the same lease.
//!
//! * A container without a row gets one that is `deleting`; a conflict there means that it was no orphan. One whose
//!   row is final is removed by its full id. What contradicts its row is left alone and told.
//! * A running row whose container is lost or ended is committed to removal, which confirms the absence.
//! * A run directory without a live row is removed; a volume without a row gets one and its retention, and one whose
//!   row is final is removed.
//!
//! A holder that was stopped and wakes finds its lease taken before it writes or removes anything.

use std::{collections::HashSet, sync::Arc, time::Instant};

use svc_core::{
    data::{
        lease::{Held, Singleton},
        pg,
    },
    id::SandboxId,
    run::failpoint,
    wire::error::Chain,
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Kept;
use crate::{
    app::{Served, Shared, lifecycle::end, making::WORKER, volume_name},
    config::ReconcileConfig,
    domain::{
        VolumeId,
        pool::Slot,
        reconcile::{Finding, Missing, Sightings, judge, missing},
        sandbox::{Cause, Container as Known, Sandbox, State, after},
        spec::{MountSource, RUN_DIRECTORY, label},
    },
    engine::{Container, ContainerId, Handle, Observed},
    error::Result,
    store::{sandboxes, volumes},
};

/// States in which a row may have a container or a run directory.
const LIVE: [State; 4] = [State::Requested, State::Creating, State::Running, State::Deleting];

/// Starts reconciling.
pub fn start(ctx: &Shared, config: ReconcileConfig, singleton: Singleton) {
    let ctx = ctx.clone();
    let lifecycle = ctx.lifecycle.clone();
    let reconciler = Arc::new(Mutex::new(Reconciler::new(config.clone(), singleton)));
    lifecycle.every("sandbox reconcile", config.period, move || {
        let (ctx, reconciler) = (ctx.clone(), reconciler.clone());
        async move {
            let report = reconciler.lock().await.pass(&ctx).await?;
            if report != Report::default() {
                tracing::warn!(?report, "engine and rows differed");
            }
            Ok(())
        }
    });
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Containers without a row, now with one.
    pub orphans: usize,
    /// Containers removed whose row was final.
    pub leftovers: usize,
    /// Rows committed to removal because their container is lost or ended.
    pub missing: usize,
    /// Run directories removed.
    pub run_dirs: usize,
    /// Volumes that got a row.
    pub volumes: usize,
    /// Volumes removed whose row was final.
    pub late_volumes: usize,
    /// Containers that contradict their rows.
    pub strange: usize,
}

/// Passes and what they have seen.
#[derive(Debug)]
pub struct Reconciler {
    config: ReconcileConfig,
    kept: Kept,
    containers: Sightings<ContainerId>,
    rows: Sightings<(SandboxId, Missing)>,
    run_dirs: Sightings<String>,
    volumes: Sightings<VolumeId>,
}

impl Reconciler {
    /// Has seen nothing.
    #[must_use]
    pub fn new(config: ReconcileConfig, singleton: Singleton) -> Self {
        Self {
            config,
            kept: Kept::new(singleton),
            containers: Sightings::default(),
            rows: Sightings::default(),
            run_dirs: Sightings::default(),
            volumes: Sightings::default(),
        }
    }

    /// Looks once, if this replica is the one, and acts on what it has seen before as well.
    ///
    /// # Errors
    /// [`crate::Error`]; what was seen then counts for nothing.
    pub async fn pass(&mut self, ctx: &Shared) -> Result<Report> {
        let served = ctx.served()?;
        let Some(held) = self.kept.hold().await? else { return Ok(Report::default()) };
        let (engine, installation) = (&served.info.id, &ctx.settings.installation);
        let mut report = Report::default();

        let running = in_states(ctx, engine, &[State::Running]).await?;
        served.still_itself().await?;
        let listed = served.engine.list(installation).await?;
        let named: Vec<Uuid> = listed.iter().filter_map(|c| c.sandbox()).map(|(id, _)| id.0).collect();
        let rows = {
            let mut db = ctx.pool.acquire().await?;
            sandboxes::read(&mut db, None, &named).await?
        };
        failpoint::hit("sandbox.reconcile.listed").await;

        let now = ctx.now();
        let find = |container: &Container| {
            let row = container.sandbox().and_then(|(id, _)| rows.iter().find(|row| row.id == id));
            judge(container, engine, row, self.config.min_age, now)
        };
        let judged: Vec<(&Container, Finding)> = listed.iter().map(|c| (c, find(c))).collect();
        for (container, _) in judged.iter().filter(|(_, finding)| *finding == Finding::Strange) {
            report.strange += 1;
            tracing::error!(container = %container.id, name = container.name, "container contradicts its row");
        }
        let stray = |(c, finding): &(&Container, Finding)| {
            matches!(finding, Finding::WithoutRow | Finding::Leftover).then(|| c.id.clone())
        };
        let seen: Vec<ContainerId> = judged.iter().filter_map(stray).collect();
        let ripe = self.containers.look(held.epoch(), &seen, self.config.period, Instant::now());
        for (container, finding) in judged.iter().filter(|(container, _)| ripe.contains(&container.id)) {
            failpoint::hit("sandbox.reconcile.acting").await;
            match finding {
                Finding::WithoutRow if orphan(ctx, held, served, container).await? => report.orphans += 1,
                Finding::Leftover if leftover(held, served, container).await? => report.leftovers += 1,
                Finding::WithoutRow | Finding::Leftover | Finding::Fine | Finding::Strange => {}
            }
        }

        let seen = missing(&running, &listed);
        for (id, how) in self.rows.look(held.epoch(), &seen, self.config.period, Instant::now()) {
            failpoint::hit("sandbox.reconcile.acting").await;
            report.missing += usize::from(lost(ctx, held, served, id, how).await?);
        }

        report.run_dirs = self.run_dirs(ctx, served).await?;
        (report.volumes, report.late_volumes) = self.volumes(ctx, served).await?;
        Ok(report)
    }

    async fn run_dirs(&mut self, ctx: &Shared, served: &Served) -> Result<usize> {
        let Some(held) = self.kept.hold().await? else { return Ok(0) };
        let listed = served.run_dirs.older_than(self.config.min_age).map_err(on_host)?;
        let rows = in_states(ctx, &served.info.id, &LIVE).await?;
        let used: HashSet<&str> =
            rows.iter().filter_map(|row| row.container.as_ref()).map(|c| c.run_dir.as_str()).collect();
        let seen: Vec<String> = listed.into_iter().filter(|name| !used.contains(name.as_str())).collect();
        let ripe = self.run_dirs.look(held.epoch(), &seen, self.config.period, Instant::now());
        let mut removed = 0;
        for name in &ripe {
            failpoint::hit("sandbox.reconcile.acting").await;
            still_held(held).await?;
            match served.run_dirs.revoke(name).and_then(|()| served.run_dirs.discard(name)) {
                Ok(()) => removed += 1,
                // It is seen again, and keeps nobody from what else there is.
                Err(error) => tracing::error!(error = %Chain(&error), "run directory not removed"),
            }
        }
        Ok(removed)
    }

    async fn volumes(&mut self, ctx: &Shared, served: &Served) -> Result<(usize, usize)> {
        let Some(held) = self.kept.hold().await? else { return Ok((0, 0)) };
        let listed = served.engine.list_volumes(&ctx.settings.installation).await?;
        let id = |labels: &std::collections::BTreeMap<String, String>| {
            let ours = labels.get(label::ENGINE) == Some(&served.info.id);
            labels.get(label::VOLUME).filter(|_| ours).and_then(|id| VolumeId::parse(label::VOLUME, id).ok())
        };
        let labelled: Vec<VolumeId> = listed.iter().filter_map(|volume| id(&volume.labels)).collect();
        let ids: Vec<Uuid> = labelled.iter().map(|id| id.0).collect();
        let known = {
            let mut db = ctx.pool.acquire().await?;
            volumes::known(&mut db, &ids).await?
        };
        let seen: Vec<VolumeId> = labelled.into_iter().filter(|id| known.get(id) != Some(&false)).collect();
        let (mut adopted, mut late) = (0, 0);
        for id in self.volumes.look(held.epoch(), &seen, self.config.period, Instant::now()) {
            failpoint::hit("sandbox.reconcile.acting").await;
            if known.contains_key(&id) {
                // Made after its row was final, by a create that was under way for longer than anybody remembers.
                still_held(held).await?;
                tracing::warn!(volume.id = %id, "workspace outlived its row");
                served.engine.remove_volume(&volume_name(id)).await?;
                late += 1;
            } else {
                let now = ctx.now();
                let mut tx = held.tx().await?;
                let until = after(now, ctx.settings.lifetimes.volume_retention);
                volumes::adopt(&mut tx, id, &served.info.id, now, until).await?;
                tx.commit().await?;
                tracing::warn!(volume.id = %id, "workspace without a row found");
                adopted += 1;
            }
        }
        Ok((adopted, late))
    }
}

/// Refuses to go on once the lease was taken: before what only final rows allow, which needs no write.
async fn still_held(held: &Held) -> Result<()> {
    Ok(held.tx().await?.commit().await?)
}

async fn in_states(ctx: &Shared, engine: &str, states: &[State]) -> Result<Vec<Sandbox>> {
    let mut db = ctx.pool.acquire().await?;
    Ok(sandboxes::in_states(&mut db, engine, states).await?)
}

/// Gives a container without a row one that removes it.
async fn orphan(ctx: &Shared, held: &Held, served: &Served, container: &Container) -> Result<bool> {
    let Some((id, generation)) = container.sandbox() else { return Ok(false) };
    let now = ctx.now();
    let run_dir = container.mounts.iter().find(|mount| mount.target.as_os_str() == RUN_DIRECTORY);
    let run_dir = run_dir.and_then(|mount| match &mount.source {
        MountSource::Bind(path) => Some(path.file_name()?.to_str()?.to_owned()),
        MountSource::Volume(_) => None,
    });
    let sandbox = Sandbox {
        id,
        owner: None,
        engine: served.info.id.clone(),
        state: State::Deleting,
        generation: generation + 1,
        epoch: 1,
        warm: false,
        slot: None::<Slot>,
        retire_at: None,
        shape: ctx.settings.shape.clone(),
        // Which volume it has is not known to any row; its own rules say what becomes of it.
        volume: VolumeId::new(),
        container: Some(Known {
            generation,
            run_dir: run_dir.unwrap_or_default(),
            image: container.image.clone(),
            id: Some(container.id.0.clone()),
            instance: None,
            fence_until: now,
        }),
        cause: Some(Cause::Orphaned),
        created_at: now,
        running_at: None,
        last_active_at: now,
        deadline_at: after(now, ctx.settings.lifetimes.removal),
        ended_at: None,
    };
    let mut tx = held.tx().await?;
    match sandboxes::insert(&mut tx, &sandbox).await {
        Ok(()) => {}
        // There is a row after all: it was no orphan.
        Err(pg::Error::Conflict { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    tx.commit().await?;
    tracing::warn!(container = %container.id, sandbox.id = %id, "container without a row found");
    ctx.tell_workers(&served.info.id).await;
    Ok(true)
}

/// Removes a container whose row is final: it came late, and nothing may become of it.
async fn leftover(held: &Held, served: &Served, container: &Container) -> Result<bool> {
    // Final states are never left, so only the lease needs to be still ours.
    still_held(held).await?;
    tracing::warn!(container = %container.id, name = container.name, "container outlived its row");
    served.engine.remove(Handle::Id(&container.id)).await?;
    Ok(true)
}

/// Commits a running row to removal if its container is still what it was seen to be.
async fn lost(ctx: &Shared, held: &Held, served: &Served, id: SandboxId, how: Missing) -> Result<bool> {
    let row = {
        let mut db = ctx.pool.acquire().await?;
        sandboxes::find(&mut db, None, id).await?
    };
    let Some(container) = row.and_then(|row| row.container?.id) else { return Ok(false) };
    let container = ContainerId(container);
    let cause = match (how, served.engine.observe(Handle::Id(&container)).await) {
        (Missing::Lost, Observed::Absent) => Cause::ContainerLost,
        (Missing::Exited, Observed::Present(found))
            if found.state == crate::engine::ContainerState::Exited =>
        {
            Cause::ContainerExited
        }
        (_, Observed::Absent | Observed::Present(_) | Observed::Unknown(_)) => return Ok(false),
    };
    let mut tx = held.tx().await?;
    let Some(sandbox) = sandboxes::lock(&mut tx, None, id).await? else { return Ok(false) };
    let same = sandbox.container.as_ref().is_some_and(|known| known.id.as_ref() == Some(&container.0));
    if sandbox.state != State::Running || !same {
        return Ok(false);
    }
    end(ctx, &mut tx, &sandbox, cause, WORKER).await?;
    tx.commit().await?;
    ctx.tell(id).await;
    ctx.tell_workers(&sandbox.engine).await;
    Ok(true)
}

fn on_host(error: crate::run_dirs::Error) -> crate::engine::Error {
    crate::engine::Error::Unreachable(Box::new(error))
}
