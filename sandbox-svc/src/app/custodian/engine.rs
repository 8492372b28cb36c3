//! What an erasure removes and reads back outside Postgres, by the names that its inventory kept.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use crate::{
    app::{Context, Served},
    domain::{
        residue::{Fate, Hindrance, Thing, ThingKind},
        spec::container_name,
    },
    engine::{self, Handle, Observed, Removal},
    error::{Error, Result},
};

/// Removes whatever of `things` is still there. Their rows are final, so a container that is there came late and
/// is nobody's.
pub(super) async fn remove_all(ctx: &Context, things: BTreeSet<Thing>) -> Vec<(Thing, Fate)> {
    let later = |hindrance| move |thing| (thing, Fate::Later(hindrance));
    let Ok(served) = ctx.served() else {
        return things.into_iter().map(later(Hindrance::EngineUnavailable)).collect();
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        things.into_iter().partition(|thing| thing.engine == served.info.id);
    let mut fates: Vec<_> = elsewhere.into_iter().map(later(Hindrance::EngineElsewhere)).collect();
    if here.is_empty() {
        return fates;
    }
    let mut settled = Vec::with_capacity(here.len());
    // In the order of their kinds: containers before the volumes they hold.
    for thing in here {
        let fate = remove(served, &thing).await;
        settled.push((thing, fate));
    }
    // On another daemon at the same address all of it would be absent, too.
    if let Err(error) = served.still_itself().await {
        tracing::warn!(%error, "engine cannot be told from another one");
        let things = settled.into_iter().map(|(thing, _)| thing);
        settled = things.map(later(Hindrance::EngineUnavailable)).collect();
    }
    fates.append(&mut settled);
    fates
}

async fn remove(served: &Served, thing: &Thing) -> Fate {
    let removed = match thing.kind {
        ThingKind::Container => remove_container(served, &thing.name).await,
        ThingKind::Volume => match served.engine.remove_volume(&thing.name).await {
            Ok(Removal::Removed) => Ok(Fate::Removed),
            Ok(Removal::Absent) => Ok(Fate::Absent),
            Ok(Removal::InProgress) | Err(engine::Error::Conflict(_)) => Ok(Fate::Later(Hindrance::UnderWay)),
            Err(error) => Err(error),
        },
        ThingKind::RunDirectory => return remove_run_dir(served, &thing.name),
    };
    removed.unwrap_or_else(|error| {
        tracing::warn!(kind = thing.kind.name(), name = thing.name, %error, "not erased yet");
        Fate::Later(Hindrance::EngineUnavailable)
    })
}

async fn remove_container(served: &Served, name: &str) -> Result<Fate, engine::Error> {
    let found = match served.engine.observe(Handle::Name(name)).await {
        Observed::Absent => return Ok(Fate::Absent),
        Observed::Unknown(error) => return Err(error),
        Observed::Present(found) => found,
    };
    if found.sandbox().is_none_or(|(id, generation)| container_name(id, generation) != name) {
        tracing::error!(container = %found.id, name, "another container has the sandbox's name");
        return Ok(Fate::Absent);
    }
    served.engine.remove(Handle::Id(&found.id)).await?;
    match served.engine.observe(Handle::Id(&found.id)).await {
        Observed::Absent => Ok(Fate::Removed),
        Observed::Present(_) => Ok(Fate::Later(Hindrance::UnderWay)),
        Observed::Unknown(error) => Err(error),
    }
}

fn remove_run_dir(served: &Served, name: &str) -> Fate {
    let removed = served.run_dirs.older_than(Duration::ZERO).and_then(|there| {
        served.run_dirs.revoke(name)?;
        served.run_dirs.discard(name)?;
        Ok(if there.iter().any(|other| other == name) { Fate::Removed } else { Fate::Absent })
    });
    removed.unwrap_or_else(|error| {
        tracing::warn!(%error, "run directory not erased yet");
        Fate::Later(Hindrance::HostRefused)
    })
}

/// How much of `things` is there, kind by kind, by complete listings of the engine and of its host.
///
/// # Errors
/// [`Error`] unless the engine that has them said so itself.
pub(super) async fn count(ctx: &Context, things: &BTreeSet<Thing>) -> Result<[(ThingKind, i64); 3]> {
    let there = if things.is_empty() { HashSet::new() } else { listed(ctx, things).await? };
    let count = |kind| {
        let left = things.iter().filter(|thing| thing.kind == kind);
        let left = left.filter(|thing| there.contains(&(kind, thing.name.clone()))).count();
        (kind, i64::try_from(left).unwrap_or(i64::MAX))
    };
    Ok(ThingKind::ALL.map(count))
}

/// Everything of this installation that there is.
async fn listed(ctx: &Context, things: &BTreeSet<Thing>) -> Result<HashSet<(ThingKind, String)>> {
    let served = ctx.served()?;
    if let Some(other) = things.iter().find(|thing| thing.engine != served.info.id) {
        return Err(Error::Elsewhere(other.engine.clone()));
    }
    served.still_itself().await?;
    let installation = &ctx.settings.installation;
    let containers = served.engine.list(installation).await?;
    let volumes = served.engine.list_volumes(installation).await?;
    let run_dirs = served
        .run_dirs
        .older_than(Duration::ZERO)
        .map_err(|error| Error::Engine(engine::Error::Unreachable(Box::new(error))))?;
    let containers = containers.into_iter().map(|container| (ThingKind::Container, container.name));
    let volumes = volumes.into_iter().map(|volume| (ThingKind::Volume, volume.name));
    let run_dirs = run_dirs.into_iter().map(|name| (ThingKind::RunDirectory, name));
    Ok(containers.chain(volumes).chain(run_dirs).collect())
}
