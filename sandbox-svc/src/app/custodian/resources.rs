//! Resources outside Postgres: an erasure removes and counts them by the names in its inventory.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use crate::{
    app::{Deps, served::Served},
    domain::{
        residue::{RemovalOutcome, Resource, ResourceKind, RetryReason},
        spec::container_name,
    },
    engine::{self, Handle, Removal},
    error::{Error, Result},
};

/// Removes the `resources` that still exist, and returns the outcome of each. Their rows are final, so a
/// container exists only if the engine created it late.
pub(super) async fn remove_all(
    deps: &Deps,
    resources: BTreeSet<Resource>,
) -> Vec<(Resource, RemovalOutcome)> {
    let retry = |reason| move |resource| (resource, RemovalOutcome::Retry(reason));
    let Ok(served) = deps.engine.get() else {
        return resources.into_iter().map(retry(RetryReason::EngineUnavailable)).collect();
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|resource| resource.engine == served.info.id);
    let mut outcomes: Vec<_> = elsewhere.into_iter().map(retry(RetryReason::EngineElsewhere)).collect();
    if here.is_empty() {
        return outcomes;
    }
    let mut settled = Vec::with_capacity(here.len());
    // Removes them in the order of their kinds: a container goes before the volume that it mounts.
    for resource in here {
        let outcome = remove(served, &resource).await;
        settled.push((resource, outcome));
    }
    // Another daemon at the same address would report everything as absent.
    if let Err(error) = served.check_identity().await {
        tracing::warn!(%error, "engine's identity is not confirmed, its resources count as not erased");
        let resources = settled.into_iter().map(|(resource, _)| resource);
        settled = resources.map(retry(RetryReason::EngineUnavailable)).collect();
    }
    outcomes.append(&mut settled);
    outcomes
}

async fn remove(served: &Served, resource: &Resource) -> RemovalOutcome {
    let removed = match resource.kind {
        ResourceKind::Container => remove_container(served, &resource.name).await,
        ResourceKind::Volume => match served.engine.remove_volume(&resource.name).await {
            Ok(Removal::Removed) => Ok(RemovalOutcome::Removed),
            Ok(Removal::Absent) => Ok(RemovalOutcome::Absent),
            Ok(Removal::InProgress) | Err(engine::Error::Conflict(_)) => {
                Ok(RemovalOutcome::Retry(RetryReason::UnderWay))
            }
            Err(error) => Err(error),
        },
        ResourceKind::RunDirectory => return remove_run_dir(served, &resource.name),
    };
    removed.unwrap_or_else(|error| {
        tracing::warn!(kind = resource.kind.name(), name = resource.name, %error, "resource not erased yet");
        RemovalOutcome::Retry(RetryReason::EngineUnavailable)
    })
}

async fn remove_container(served: &Served, name: &str) -> Result<RemovalOutcome, engine::Error> {
    let Some(found) = served.engine.observe(Handle::Name(name)).await.known()? else {
        return Ok(RemovalOutcome::Absent);
    };
    if found.sandbox().is_none_or(|(id, generation)| container_name(id, generation) != name) {
        tracing::error!(container = %found.id, name, "another container has the sandbox's name");
        return Ok(RemovalOutcome::Absent);
    }
    served.engine.remove(Handle::Id(&found.id)).await?;
    match served.engine.observe(Handle::Id(&found.id)).await.known()? {
        None => Ok(RemovalOutcome::Removed),
        Some(_) => Ok(RemovalOutcome::Retry(RetryReason::UnderWay)),
    }
}

fn remove_run_dir(served: &Served, name: &str) -> RemovalOutcome {
    let run_dirs = &served.run_dirs;
    let removed = run_dirs.older_than(Duration::ZERO).and_then(|listed| {
        run_dirs.revoke(name)?;
        run_dirs.discard(name)?;
        let existed = listed.iter().any(|other| other == name);
        Ok(if existed { RemovalOutcome::Removed } else { RemovalOutcome::Absent })
    });
    removed.unwrap_or_else(|error| {
        tracing::warn!(%error, "run directory not erased yet");
        RemovalOutcome::Retry(RetryReason::HostRefused)
    })
}

/// Counts the `resources` that exist, by kind, from complete listings of the engine and its host.
///
/// # Errors
/// [`Error::ServedElsewhere`] if another process serves their engine, [`Error::Engine`] if the engine does
/// not answer.
pub(super) async fn count(deps: &Deps, resources: &BTreeSet<Resource>) -> Result<[(ResourceKind, i64); 3]> {
    let existing = if resources.is_empty() { HashSet::new() } else { list(deps, resources).await? };
    let count = |kind| {
        let left = resources.iter().filter(|resource| resource.kind == kind);
        let left = left.filter(|resource| existing.contains(&(kind, resource.name.clone()))).count();
        (kind, i64::try_from(left).unwrap_or(i64::MAX))
    };
    Ok(ResourceKind::ALL.map(count))
}

/// Lists every container, volume and run directory of this installation.
async fn list(deps: &Deps, resources: &BTreeSet<Resource>) -> Result<HashSet<(ResourceKind, String)>> {
    let served = deps.engine.get()?;
    if let Some(other) = resources.iter().find(|resource| resource.engine != served.info.id) {
        return Err(Error::ServedElsewhere(other.engine.clone()));
    }
    served.check_identity().await?;
    let installation = &deps.settings.installation;
    let containers = served.engine.list(installation).await?;
    let volumes = served.engine.list_volumes(installation).await?;
    let run_dirs = served.run_dirs.older_than(Duration::ZERO)?;
    let containers = containers.into_iter().map(|container| (ResourceKind::Container, container.name));
    let volumes = volumes.into_iter().map(|volume| (ResourceKind::Volume, volume.name));
    let run_dirs = run_dirs.into_iter().map(|name| (ResourceKind::RunDirectory, name));
    Ok(containers.chain(volumes).chain(run_dirs).collect())
}
