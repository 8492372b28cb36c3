//! Commits what is overdue to removal: whoever did not get a sandbox in time, and whoever does not use one.
//!
//! Candidates: rows that are `requested`, `creating` or `running` past their deadline, which is read again under the
//! row's lock. A removal that is overdue has nowhere to go; it is told.

use svc_core::data::pg::Tx;

use crate::{
    app::{Shared, lifecycle::end, making::WORKER},
    domain::sandbox::{Cause, Sandbox, State},
    error::Result,
    store::sandboxes,
};

const BATCH: i64 = 100;

/// Starts looking at deadlines.
pub fn start(ctx: &Shared) {
    let ctx = ctx.clone();
    let lifecycle = ctx.lifecycle.clone();
    lifecycle.every("sandbox deadlines", ctx.settings.lifetimes.sweep_period, move || {
        let ctx = ctx.clone();
        async move { Ok(sweep(&ctx).await.map(drop)?) }
    });
}

/// Ends everything that is overdue; answers how many there were.
///
/// # Errors
/// [`crate::Error`] of the first that failed; those before it are ended.
pub async fn sweep(ctx: &Shared) -> Result<usize> {
    let mut ended = 0;
    loop {
        let due = {
            let mut db = ctx.pool.acquire().await?;
            sandboxes::due(&mut db, ctx.now(), BATCH).await?
        };
        let full = i64::try_from(due.len()).is_ok_and(|found| found == BATCH);
        for id in due {
            let mut tx = Tx::system(&ctx.pool).await?;
            let Some(sandbox) = sandboxes::lock(&mut tx, None, id).await? else { continue };
            // It may have been used, or ended, since it was found.
            if sandbox.deadline_at > ctx.now() {
                continue;
            }
            if end(ctx, &mut tx, &sandbox, cause(&sandbox), WORKER).await?.is_none() {
                continue;
            }
            tx.commit().await?;
            ended += 1;
            ctx.tell(id).await;
            ctx.tell_workers(&sandbox.engine).await;
        }
        if !full {
            return Ok(ended);
        }
    }
}

fn cause(sandbox: &Sandbox) -> Cause {
    match sandbox.state {
        State::Requested | State::Creating => Cause::CreateTimeout,
        State::Running if sandbox.slot.is_some() => Cause::Retired,
        State::Running | State::Deleting | State::Gone | State::Failed => Cause::Expired,
    }
}
