//! `inventoried → erasing`: the point of no return, one transaction without any call.

use svc_core::data::pg::Tx;

use super::{Driver, Incomplete};
use crate::{
    domain::{hold, job::Input},
    store::{claims::Claim, holds},
};

impl Driver {
    /// Passes the point of no return, unless a hold is in force; then the job waits until the hold ends.
    /// Setting a hold takes the same locks, so a concurrent hold is either found here or refused to the
    /// operator. A concurrent cancellation makes the guarded write fail.
    pub(super) async fn clear(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let covering = hold::covering(&claim.subject);
        let mut tx = Tx::system(&self.pool).await?;
        holds::lock_subjects(&mut tx, &covering).await?;
        let input = match holds::held_until(&mut tx, &covering, self.clock.now()).await? {
            Some(until) => Input::Held(until),
            None => Input::Cleared,
        };
        Ok(self.commit_moved(tx, claim, input, None).await?)
    }
}
