//! `inventoried → erasing`: the point of no return, one transaction without any call.

use svc_core::data::pg::Tx;

use super::{Driver, Incomplete};
use crate::{
    domain::{hold, job::Input},
    store::{claims::Claim, holds},
};

impl Driver {
    /// Passes the point of no return, unless a hold is in force; then the job waits until the hold ends.
    ///
    /// The transaction locks the holds of the subject and of its account, and a request that sets a hold
    /// locks the holds of its subject. So a concurrent hold on the subject is either found here, or is
    /// refused because the erasure has started. If a concurrent cancellation changes the job first, the write
    /// fails.
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
