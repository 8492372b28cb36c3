//! Carries out committed removals of this engine, a few at once.
//!
//! Candidates: rows that are `deleting` whose lease is free, was given back, or ran out.

use std::sync::Arc;

use svc_core::data::lease::Scanner;
use tokio::{sync::Semaphore, time::Instant};

use super::patience;
use crate::{
    app::{Shared, engine_topic, removal},
    domain::sandbox::State,
    error::Result,
    store::queue,
};

/// Removals at once: as many as the engine takes without others waiting for it.
const AT_ONCE: usize = 4;
const BATCH: i64 = 64;

/// Starts the remover of the engine that this process serves.
pub fn start(ctx: &Shared, owner: &str) {
    let (ctx, owner) = (ctx.clone(), owner.to_owned());
    let lifecycle = ctx.lifecycle.clone();
    let poll = ctx.settings.create.poll;
    lifecycle.supervise("sandbox remover", patience(poll), move |beat| {
        let (ctx, owner) = (ctx.clone(), owner.clone());
        let places = Arc::new(Semaphore::new(AT_ONCE));
        async move {
            let engine = ctx.served()?.info.id.clone();
            let soft = ctx.lifecycle.soft();
            let mut hints = ctx.wake.subscribe(&engine_topic(&engine)).await;
            let mut scanner = Scanner::new(ctx.settings.create.lease);
            loop {
                match round(&ctx, &owner, &scanner, &places).await {
                    Ok(()) => scanner.reached(Instant::now()),
                    Err(error) => {
                        tracing::warn!(error = %svc_core::wire::error::Chain(&error), "remover round failed")
                    }
                }
                beat.tick();
                tokio::select! {
                    () = soft.cancelled() => return Ok(()),
                    _ = hints.next(poll) => {}
                }
            }
        }
    });
}

async fn round(ctx: &Shared, owner: &str, scanner: &Scanner, places: &Arc<Semaphore>) -> Result<()> {
    let served = ctx.served()?;
    let expired = scanner.may_take(Instant::now());
    let left = {
        let mut db = ctx.pool.acquire().await?;
        queue::unattended(&mut db, &served.info.id, State::Deleting, expired, BATCH).await?
    };
    for (id, seen) in left {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (ctx, owner) = (ctx.clone(), owner.to_owned());
        drop(ctx.lifecycle.clone().spawn("sandbox removal", async move {
            let removed = match ctx.served() {
                Ok(served) => removal::remove(&ctx, served, id, seen, &owner).await,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!(sandbox.id = %id, error = %svc_core::wire::error::Chain(&error), "sandbox not removed yet");
            }
            drop(place);
        }));
    }
    Ok(())
}
