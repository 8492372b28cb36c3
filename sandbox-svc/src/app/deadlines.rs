//! Commits sandboxes past their deadline to removal: not created in time, unused, at the end of their longest
//! life, or due to retire from the pool.

use svc_core::data::pg::Tx;

use super::Deps;
use crate::{
    domain::sandbox::{Cause, Sandbox, State},
    error::Result,
    store::sandboxes as rows,
};

/// Maximum sandboxes that one query returns; a full batch is followed by another query.
const BATCH: i64 = 100;

/// Commits everything that is overdue to removal. Returns the number of sandboxes.
///
/// # Errors
/// The error of the first sandbox that failed; the sandboxes before it are committed.
pub async fn sweep(deps: &Deps) -> Result<usize> {
    let mut ended = 0;
    loop {
        let due = {
            let mut db = deps.pool.acquire().await?;
            rows::due(&mut db, deps.now(), BATCH).await?
        };
        let full = i64::try_from(due.len()).is_ok_and(|found| found == BATCH);
        for id in due {
            // The row is read again under the lock, because a call may have moved the deadline meanwhile.
            let overdue =
                |sandbox: &Sandbox| (sandbox.deadline_at <= deps.now()).then(|| expiry_cause(sandbox));
            ended += usize::from(deps.end(Tx::system(&deps.pool).await?, id, overdue).await?);
        }
        if !full {
            return Ok(ended);
        }
    }
}

fn expiry_cause(sandbox: &Sandbox) -> Cause {
    match sandbox.state {
        State::Requested | State::Creating => Cause::CreateTimeout,
        State::Running if sandbox.slot.is_some() => Cause::Retired,
        State::Running | State::Deleting | State::Gone | State::Failed => Cause::Expired,
    }
}
