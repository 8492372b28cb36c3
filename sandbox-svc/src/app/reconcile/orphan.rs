//! Inserts rows for containers without one, and removes containers with a final row.

use svc_core::data::{lease::Held, pg};

use crate::{
    app::{Deps, served::Served},
    domain::{
        VolumeId,
        sandbox::{Cause, Container as Known, Sandbox, State},
        spec::{MountSource, RUN_DIRECTORY},
        time::after,
    },
    engine::{Container, Handle},
    error::Result,
    store::sandboxes as rows,
};

/// Inserts a row that is `deleting` for a container without one; the remover then removes the container.
/// Returns `false` if a row exists now.
pub(super) async fn adopt(deps: &Deps, held: &Held, served: &Served, container: &Container) -> Result<bool> {
    let Some((id, generation)) = container.sandbox() else { return Ok(false) };
    let now = deps.now();
    let run_dir = container.mounts.iter().find(|mount| mount.target.as_os_str() == RUN_DIRECTORY);
    let run_dir = run_dir.and_then(|mount| match &mount.source {
        MountSource::Bind(path) => Some(path.file_name()?.to_str()?.to_owned()),
        MountSource::Volume(_) => None,
    });
    let sandbox = Sandbox {
        id,
        state: State::Deleting,
        generation: generation + 1,
        epoch: 1,
        container: Some(Known {
            generation,
            run_dir: run_dir.unwrap_or_default(),
            image: container.image.clone(),
            id: Some(container.id.0.clone()),
            instance: None,
            fence_until: now,
        }),
        cause: Some(Cause::Orphaned),
        deadline_at: after(now, deps.settings.lifetimes.removal),
        // The row gets a new volume id, because the container's volume is reconciled by its own labels.
        ..deps.requested(served.info.id.clone(), VolumeId::new())
    };
    let mut tx = held.tx().await?;
    match rows::insert(&mut tx, &sandbox, None).await {
        Ok(()) => {}
        Err(pg::Error::Conflict { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    tx.commit().await?;
    tracing::warn!(container = %container.id, sandbox.id = %id, "container without a row found");
    deps.notices.work_for(&served.info.id).await;
    Ok(true)
}

/// Removes a container with a final row. No transition leaves a final state, so only the lease is checked.
pub(super) async fn remove_leftover(held: &Held, served: &Served, container: &Container) -> Result<()> {
    held.check().await?;
    tracing::warn!(container = %container.id, name = container.name, "container outlived its row");
    served.engine.remove(Handle::Id(&container.id)).await?;
    Ok(())
}
