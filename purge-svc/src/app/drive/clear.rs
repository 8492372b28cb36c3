//! `inventoried → erasing`: the point of no return, one transaction without any call.

use svc_core::data::pg::Tx;

use super::{Driver, Incomplete};
use crate::{
    domain::{hold, job::Input},
    store::{claims::Claim, holds},
};

impl Driver {
    /// Passes the point of no return unless a hold stands. A hold that is set at the same time is either seen
    /// here or refused there, because both take the same locks; the guarded write does the same for a
    /// cancellation.
    pub(super) async fn clear(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let covering = hold::covering(&claim.subject);
        let mut tx = Tx::system(&self.pool).await?;
        holds::lock_subjects(&mut tx, &covering).await?;
        let input = match holds::held_until(&mut tx, &covering, self.clock.now()).await? {
            Some(until) => Input::Held(until),
            None => Input::Cleared,
        };
        let moved = self.apply(&mut tx, claim, input, None, self.clock.now()).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }
}
