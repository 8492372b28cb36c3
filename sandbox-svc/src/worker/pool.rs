//! Keeps the warm pool at its size: asks for sandboxes for empty places, retires those that are too many.
//!
//! Places are filled through the same queue as everybody's, behind the users. While the pool keeps failing it is
//! left alone: what cannot be made is not asked for again and again.

use std::sync::Arc;

use svc_core::data::{lease::Singleton, pg::Tx};
use tokio::sync::Mutex;

use super::{Kept, host::HostLevel};
use crate::{
    app::{Shared, lifecycle::end, making::WORKER, provision},
    config::PoolConfig,
    domain::{
        host::Level,
        pool::{Desired, Occupant, Step, plan, retire_at},
        sandbox::{Cause, State},
    },
    engine::Observed,
    error::Result,
    store::{self, sandboxes},
};

/// Starts keeping the pool.
pub fn start(ctx: &Shared, config: PoolConfig, host: &HostLevel, singleton: Singleton) {
    let (ctx, host) = (ctx.clone(), host.clone());
    let lifecycle = ctx.lifecycle.clone();
    let kept = Arc::new(Mutex::new(Kept::new(singleton)));
    lifecycle.every("sandbox pool", config.period, move || {
        let (ctx, config, host, kept) = (ctx.clone(), config.clone(), host.clone(), kept.clone());
        async move { Ok(pass(&ctx, &config, &host, &mut *kept.lock().await).await?) }
    });
}

/// Takes one step from what there is to what should be, if this replica is the one.
///
/// # Errors
/// [`crate::Error`].
pub async fn pass(ctx: &Shared, config: &PoolConfig, host: &HostLevel, kept: &mut Kept) -> Result<()> {
    let served = ctx.served()?;
    let Some(held) = kept.hold().await? else { return Ok(()) };
    // An image that is not there, or an engine that does not say, changes nothing; size 0 needs neither.
    let image = match served.engine.image(&ctx.settings.shape.image).await {
        Observed::Present(image) => image,
        Observed::Absent | Observed::Unknown(_) if config.size > 0 => return Ok(()),
        Observed::Absent | Observed::Unknown(_) => String::new(),
    };
    let now = ctx.now();
    let (rows, failures) = {
        let mut db = ctx.pool.acquire().await?;
        let states = [State::Requested, State::Creating, State::Running];
        let rows = sandboxes::in_states(&mut db, &served.info.id, &states).await?;
        let window = config.failure_window;
        (rows, store::pool::recent_pool_failures(&mut db, &served.info.id, now, window).await?)
    };
    let pooled: Vec<_> = rows.into_iter().filter_map(|row| row.slot.map(|slot| (slot, row))).collect();
    let occupants: Vec<Occupant> = pooled
        .iter()
        .map(|(slot, row)| Occupant {
            slot: *slot,
            image: row.container.as_ref().map(|container| container.image.clone()),
            fits: row.shape == ctx.settings.shape,
            retire_at: row.retire_at.unwrap_or(row.deadline_at),
        })
        .collect();
    let desired = Desired { size: i32::from(config.size), image, lead: config.lead };
    let may_fill = host.get() == Level::Fine && failures < i64::from(config.failures);
    for step in plan(&desired, &occupants, now) {
        let mut tx = held.tx().await?;
        match step {
            Step::Fill(_) if !may_fill => continue,
            Step::Fill(number) => {
                let retire_at = retire_at(now, config.life, occupants.is_empty(), number, desired.size);
                provision::fill(ctx, &mut tx, &served.info.id, number, retire_at).await?;
            }
            Step::Retire(index) => retire(ctx, &mut tx, &pooled[index].1.id).await?,
        }
        tx.commit().await?;
        ctx.tell_workers(&served.info.id).await;
    }
    Ok(())
}

/// Retires a sandbox unless it was claimed since it was seen.
async fn retire(ctx: &Shared, tx: &mut Tx, id: &svc_core::id::SandboxId) -> Result<()> {
    match sandboxes::lock(tx, None, *id).await? {
        Some(sandbox) if sandbox.slot.is_some() => {
            end(ctx, tx, &sandbox, Cause::Retired, WORKER).await.map(drop)
        }
        Some(_) | None => Ok(()),
    }
}
