//! Removes run directories that no live row names, inserts rows for volumes without one, and removes volumes
//! with a final row.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use svc_core::{data::lease::Held, error::Chain, run::failpoint};
use uuid::Uuid;

use super::{LIVE, Reconciliation, in_states};
use crate::{
    app::served::Served,
    domain::{
        VolumeId,
        spec::{label, volume_name},
        time::after,
    },
    error::Result,
    store::volumes,
};

impl Reconciliation {
    /// Removes run directories that no live row names. Returns their number.
    pub(super) async fn run_dirs(&mut self, held: &Held, served: &Served) -> Result<usize> {
        let settings = &self.deps.settings.reconcile;
        let listed = served.run_dirs.older_than(settings.min_age)?;
        let rows = in_states(&self.deps, served, &LIVE).await?;
        let used: HashSet<&str> =
            rows.iter().filter_map(|row| row.container.as_ref()).map(|c| c.run_dir.as_str()).collect();
        let seen: Vec<String> = listed.into_iter().filter(|name| !used.contains(name.as_str())).collect();
        let mut removed = 0;
        for name in &self.run_dirs.record(held.epoch(), &seen, settings.period, Instant::now()) {
            failpoint::hit("sandbox.reconcile.acting").await;
            held.check().await?;
            match served.run_dirs.revoke(name).and_then(|()| served.run_dirs.discard(name)) {
                Ok(()) => removed += 1,
                // The next pass finds the directory again; the rest of this pass continues.
                Err(error) => tracing::error!(error = %Chain(&error), "run directory not removed"),
            }
        }
        Ok(removed)
    }

    /// Inserts rows for volumes without one, and removes volumes with a final row. Returns both numbers.
    pub(super) async fn volumes(&mut self, held: &Held, served: &Served) -> Result<(usize, usize)> {
        let deps = &self.deps;
        let listed = served.engine.list_volumes(&deps.settings.installation).await?;
        let id = |labels: &BTreeMap<String, String>| {
            let ours = labels.get(label::ENGINE) == Some(&served.info.id);
            labels.get(label::VOLUME).filter(|_| ours).and_then(|id| VolumeId::parse(label::VOLUME, id).ok())
        };
        let labelled: Vec<VolumeId> = listed.iter().filter_map(|volume| id(&volume.labels)).collect();
        let ids: Vec<Uuid> = labelled.iter().map(|id| id.0).collect();
        let known = {
            let mut db = deps.pool.acquire().await?;
            volumes::are_gone(&mut db, &ids).await?
        };
        let seen: Vec<VolumeId> = labelled.into_iter().filter(|id| known.get(id) != Some(&false)).collect();
        let (mut adopted, mut late) = (0, 0);
        let period = deps.settings.reconcile.period;
        for id in self.volumes.record(held.epoch(), &seen, period, Instant::now()) {
            failpoint::hit("sandbox.reconcile.acting").await;
            if known.contains_key(&id) {
                // The volume exists because a create was still under way when its row became final.
                held.check().await?;
                tracing::warn!(volume.id = %id, "workspace outlived its row");
                served.engine.remove_volume(&volume_name(id)).await?;
                late += 1;
            } else {
                let now = deps.now();
                let until = after(now, deps.settings.lifetimes.volume_retention);
                let mut tx = held.tx().await?;
                volumes::adopt(&mut tx, id, &served.info.id, now, until).await?;
                tx.commit().await?;
                tracing::warn!(volume.id = %id, "workspace without a row found");
                adopted += 1;
            }
        }
        Ok((adopted, late))
    }
}
