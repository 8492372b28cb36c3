//! Compares what the engine and its host have with the rows, in both directions.
//!
//! The order of the reads prevents false differences. Rows that are `running` are read *before* the listing,
//! so a container that is not listed was absent while its row said `running`. The rows of the listed
//! containers are read *after* the listing, so a container without a row had none when it was listed. A
//! listing counts only if it is complete and comes from the expected engine. The reconciler acts on a
//! difference only if two passes at least a period apart saw it under the same lease.
//!
//! * A container without a row gets a row that is `deleting`, unless the insert shows that a row exists now.
//! * A container with a final row is removed by its full id.
//! * A container that contradicts its row is left alone and logged.
//! * A running row with a lost or ended container is committed to removal, which confirms that the container
//!   is absent.
//! * A run directory without a live row is removed.
//! * A volume without a row gets a row and the usual retention; a volume with a final row is removed.
//!
//! Before each write or removal the lease is checked, so a replica that was suspended meanwhile does nothing.

mod orphan;
mod storage;

use std::time::Instant;

use svc_core::{data::lease::Held, id::SandboxId, run::failpoint};
use uuid::Uuid;

use super::{Deps, served::Served};
use crate::{
    domain::{
        VolumeId,
        reconcile::{Finding, Missing, Sightings, judge, missing},
        sandbox::{Cause, Sandbox, State},
    },
    engine::{Container, ContainerId, ContainerState, Handle, Observed},
    error::Result,
    store::sandboxes as rows,
};

/// States in which a row may have a container or a run directory.
const LIVE: [State; 4] = [State::Requested, State::Creating, State::Running, State::Deleting];

/// Counts of one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Containers without a row that got one.
    pub orphans: usize,
    /// Containers removed because their row was final.
    pub leftovers: usize,
    /// Rows committed to removal because their container was lost or had ended.
    pub missing: usize,
    pub run_dirs: usize,
    /// Volumes without a row that got one.
    pub volumes: usize,
    /// Volumes removed because their row was final.
    pub late_volumes: usize,
    /// Containers that contradict their rows.
    pub contradictory: usize,
}

/// Reconciles one engine, and remembers which differences the past passes saw.
#[derive(Debug)]
pub struct Reconciliation {
    deps: Deps,
    containers: Sightings<ContainerId>,
    rows: Sightings<(SandboxId, Missing)>,
    run_dirs: Sightings<String>,
    volumes: Sightings<VolumeId>,
}

impl Reconciliation {
    pub fn new(deps: Deps) -> Self {
        Self {
            deps,
            containers: Sightings::default(),
            rows: Sightings::default(),
            run_dirs: Sightings::default(),
            volumes: Sightings::default(),
        }
    }

    /// Makes one pass under the lease `held`. Acts only on differences that an earlier pass saw, too.
    ///
    /// # Errors
    /// Any error; the next pass then does the rest.
    pub async fn pass(&mut self, held: &Held) -> Result<Report> {
        let deps = self.deps.clone();
        let served = deps.engine.get()?;
        let mut report = Report::default();

        let running = in_states(&deps, served, &[State::Running]).await?;
        served.check_identity().await?;
        let listed = served.engine.list(&deps.settings.installation).await?;
        let named: Vec<Uuid> = listed.iter().filter_map(|c| c.sandbox()).map(|(id, _)| id.0).collect();
        let rows = {
            let mut db = deps.pool.acquire().await?;
            rows::read(&mut db, None, &named).await?
        };
        failpoint::hit("sandbox.reconcile.listed").await;

        self.containers(held, served, &listed, &rows, &mut report).await?;
        let seen = missing(&running, &listed);
        let period = deps.settings.reconcile.period;
        for (id, how) in self.rows.record(held.epoch(), &seen, period, Instant::now()) {
            failpoint::hit("sandbox.reconcile.acting").await;
            report.missing += usize::from(end_missing(&deps, held, served, id, how).await?);
        }
        report.run_dirs = self.run_dirs(held, served).await?;
        (report.volumes, report.late_volumes) = self.volumes(held, served).await?;
        Ok(report)
    }

    async fn containers(
        &mut self,
        held: &Held,
        served: &Served,
        listed: &[Container],
        rows: &[Sandbox],
        report: &mut Report,
    ) -> Result<()> {
        let settings = &self.deps.settings.reconcile;
        let now = self.deps.now();
        let find = |container: &Container| {
            let row = container.sandbox().and_then(|(id, _)| rows.iter().find(|row| row.id == id));
            judge(container, &served.info.id, row, settings.min_age, now)
        };
        let judged: Vec<(&Container, Finding)> = listed.iter().map(|c| (c, find(c))).collect();
        for (container, _) in judged.iter().filter(|(_, finding)| *finding == Finding::Contradictory) {
            report.contradictory += 1;
            let (id, name) = (&container.id, &container.name);
            tracing::error!(container = %id, name, "container contradicts its row");
        }
        let stray = |(c, finding): &(&Container, Finding)| {
            matches!(finding, Finding::WithoutRow | Finding::Leftover).then(|| c.id.clone())
        };
        let seen: Vec<ContainerId> = judged.iter().filter_map(stray).collect();
        let confirmed = self.containers.record(held.epoch(), &seen, settings.period, Instant::now());
        for (container, finding) in judged.iter().filter(|(container, _)| confirmed.contains(&container.id)) {
            failpoint::hit("sandbox.reconcile.acting").await;
            match finding {
                Finding::WithoutRow if orphan::adopt(&self.deps, held, served, container).await? => {
                    report.orphans += 1;
                }
                Finding::Leftover => {
                    orphan::remove_leftover(held, served, container).await?;
                    report.leftovers += 1;
                }
                Finding::WithoutRow | Finding::Fine | Finding::Contradictory => {}
            }
        }
        Ok(())
    }
}

async fn in_states(deps: &Deps, served: &Served, states: &[State]) -> Result<Vec<Sandbox>> {
    let mut db = deps.pool.acquire().await?;
    Ok(rows::in_states(&mut db, &served.info.id, states).await?)
}

/// Commits a running row to removal if its container is still lost or ended. Returns whether it did.
async fn end_missing(deps: &Deps, held: &Held, served: &Served, id: SandboxId, how: Missing) -> Result<bool> {
    let row = {
        let mut db = deps.pool.acquire().await?;
        rows::find(&mut db, None, id).await?
    };
    let Some(container) = row.and_then(|row| row.container?.id) else { return Ok(false) };
    let container = ContainerId(container);
    let cause = match (how, served.engine.observe(Handle::Id(&container)).await) {
        (Missing::Lost, Observed::Absent) => Cause::ContainerLost,
        (Missing::Exited, Observed::Present(found)) if found.state == ContainerState::Exited => {
            Cause::ContainerExited
        }
        (_, Observed::Absent | Observed::Present(_) | Observed::Unknown(_)) => return Ok(false),
    };
    let unchanged = |sandbox: &Sandbox| {
        let same = sandbox.container.as_ref().is_some_and(|known| known.id.as_ref() == Some(&container.0));
        (sandbox.state == State::Running && same).then_some(cause)
    };
    deps.end(held.tx().await?, id, unchanged).await
}
