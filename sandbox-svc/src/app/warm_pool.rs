//! Keeps the warm pool at its size: requests sandboxes for empty slots, retires surplus ones.
//!
//! These requests are in the same queue as those of sessions, and are served after them.

use chrono::{DateTime, Utc};
use svc_core::{
    data::{lease::Held, pg::Tx},
    id::SandboxId,
};

use super::{Deps, WORKER};
use crate::{
    domain::{
        VolumeId,
        host::Level,
        pool::{Desired, Occupant, PoolState, Slot, Step, may_fill, plan, retire_at},
        sandbox::{Cause, Sandbox, State},
    },
    engine::Observed,
    error::Result,
    store::{pool, sandboxes as rows, volumes},
};

/// Requests and retires sandboxes until the pool is as configured.
///
/// # Errors
/// An error of Postgres, or of a lease that was lost; the steps before it are committed.
pub async fn fill_and_retire(deps: &Deps, held: &Held, host: Level) -> Result<()> {
    let (settings, engine) = (&deps.settings.pool, deps.engine.get()?);
    // If the image is missing or the engine does not answer, this pass changes nothing. A pool of size 0
    // needs no image.
    let image = match engine.engine.image(&deps.settings.shape.image).await {
        Observed::Present(image) => image,
        Observed::Absent | Observed::Unknown(_) if settings.size > 0 => return Ok(()),
        Observed::Absent | Observed::Unknown(_) => String::new(),
    };
    let now = deps.now();
    let (rows, failures) = {
        let mut db = deps.pool.acquire().await?;
        let states = [State::Requested, State::Creating, State::Running];
        let rows = rows::in_states(&mut db, &engine.info.id, &states).await?;
        (rows, pool::recent_failures(&mut db, &engine.info.id, now, settings.failure_window).await?)
    };
    let pooled: Vec<_> = rows.into_iter().filter_map(|row| row.slot.map(|slot| (slot, row))).collect();
    let occupants: Vec<Occupant> = pooled
        .iter()
        .map(|(slot, row)| Occupant {
            slot: *slot,
            image: row.container.as_ref().map(|container| container.image.clone()),
            fits: row.shape == deps.settings.shape,
            retire_at: row.retire_at.unwrap_or(row.deadline_at),
        })
        .collect();
    let desired = Desired { size: i32::from(settings.size), image, lead: settings.lead };
    let may_fill = may_fill(host, failures, settings.failures);
    for step in plan(&desired, &occupants, now) {
        let mut tx = held.tx().await?;
        match step {
            Step::Fill(_) if !may_fill => continue,
            Step::Fill(number) => {
                let retire_at = retire_at(now, settings.life, occupants.is_empty(), number, desired.size);
                fill(deps, &mut tx, number, retire_at).await?;
            }
            Step::Retire(index) => retire(deps, &mut tx, pooled[index].1.id).await?,
        }
        tx.commit().await?;
        deps.notices.work_for(&engine.info.id).await;
    }
    Ok(())
}

/// Requests a sandbox for a slot of the pool.
async fn fill(deps: &Deps, tx: &mut Tx, number: i32, retire_at: DateTime<Utc>) -> Result<()> {
    let engine = &deps.engine.get()?.info.id;
    let volume = VolumeId::new();
    volumes::insert(tx, volume, engine, None, deps.now()).await?;
    let sandbox = Sandbox {
        warm: true,
        slot: Some(Slot { number, state: PoolState::Filling }),
        retire_at: Some(retire_at),
        ..deps.requested(engine.clone(), volume)
    };
    Ok(rows::insert(tx, &sandbox, None).await?)
}

/// Retires a sandbox, unless a session has claimed it since it was listed.
async fn retire(deps: &Deps, tx: &mut Tx, id: SandboxId) -> Result<()> {
    match rows::lock(tx, None, id).await? {
        Some(sandbox) if sandbox.slot.is_some() => {
            deps.commit_removal(tx, &sandbox, Cause::Retired, WORKER).await.map(drop)
        }
        Some(_) | None => Ok(()),
    }
}
