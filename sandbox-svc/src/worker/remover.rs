//! Carries out committed removals of this engine, a few at a time.
//!
//! Candidates: rows that are `deleting` without a lease, and those with an expired lease, once this process
//! has read Postgres without a gap for the time to live of a lease ([`Scanner`]).

use std::sync::Arc;

use svc_core::{data::lease::Scanner, error::Chain, run::lifecycle::longest_silence};
use tokio::{sync::Semaphore, time::Instant};

use super::SLOW_ROUND;
use crate::{
    app::{Deps, removal::Remover},
    domain::sandbox::State,
    error::Result,
};

/// Maximum concurrent removals of one process. It is below the default of `engine.limits.changes`, which
/// limits the concurrent changes on the engine, so that removals leave permits for creations.
const MAX_REMOVALS: usize = 4;
/// Maximum rows of one round; the next round reads the rest.
const BATCH: i64 = 64;

/// Starts the remover of the served engine.
pub fn start(deps: &Deps, holder: &str) {
    let (deps, remover) = (deps.clone(), Remover { deps: deps.clone(), holder: holder.to_owned() });
    let lifecycle = deps.lifecycle.clone();
    let poll = deps.settings.create.poll;
    lifecycle.supervise("sandbox remover", longest_silence(poll, 3, SLOW_ROUND), move |beat| {
        let (deps, remover) = (deps.clone(), remover.clone());
        let permits = Arc::new(Semaphore::new(MAX_REMOVALS));
        async move {
            let soft = deps.lifecycle.soft();
            let mut hints = deps.notices.of_engine(&deps.engine.get()?.info.id).await;
            let mut scanner = Scanner::new(deps.settings.create.lease);
            loop {
                match round(&deps, &remover, &scanner, &permits).await {
                    Ok(()) => scanner.reached(Instant::now()),
                    Err(error) => tracing::warn!(error = %Chain(&error), "remover round failed"),
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

async fn round(deps: &Deps, remover: &Remover, scanner: &Scanner, permits: &Arc<Semaphore>) -> Result<()> {
    let expired = scanner.may_take(Instant::now());
    for row in deps.list_unattended(State::Deleting, expired, BATCH).await? {
        let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
        let remover = remover.clone();
        drop(deps.lifecycle.spawn("sandbox removal", async move {
            if let Err(error) = remover.remove(row.id, row.epoch).await {
                tracing::warn!(sandbox.id = %row.id, error = %Chain(&error), "sandbox not removed yet");
            }
            drop(permit);
        }));
    }
    Ok(())
}
