//! `pending → frozen`: every custodian refuses new writes of the subject. Thaw, for a canceled job, allows
//! writes again.

use futures::{FutureExt, future::join_all};
use svc_core::{custody::StepKind, data::pg::Tx};
use tracing::Instrument;

use super::{Driver, Incomplete};
use crate::{
    domain::{custodian::Custodian, hold, job::Input},
    store::{claims::Claim, holds},
};

impl Driver {
    /// Calls Freeze at every custodian. Freezes none if a hold is in force, if a custodian does not answer,
    /// or if one does not declare a required kind.
    pub(super) async fn freeze(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let covering = hold::covering(&claim.subject);
        let mut tx = Tx::system(&self.pool).await?;
        // Locks the holds until the transaction ends, which also stores that the job waits. Otherwise an
        // operator could release the hold in between, and the release would find no waiting job to wake.
        holds::lock_subjects(&mut tx, &covering).await?;
        if let Some(until) = holds::held_until(&mut tx, &covering, self.clock.now()).await? {
            return Ok(self.commit_moved(tx, claim, Input::Held(until), None).await?);
        }
        tx.rollback().await?;
        // Asks every custodian whether it answers before the first one is frozen: a job that cannot end must
        // not freeze anything.
        let described = Custodian::ALL.map(|custodian| self.roster.get(custodian).describe());
        for description in join_all(described).await {
            description?;
        }
        self.ask_remaining(claim, StepKind::Freeze, |client, call| {
            async move {
                let frozen = client.freeze(&call).await?;
                if !frozen.known {
                    tracing::debug!(purge.id = %call.purge_id, "custodian has nothing of this subject");
                }
                Ok(frozen.digest)
            }
            .in_current_span()
            .boxed()
        })
        .await?;
        Ok(self.transition(claim, Input::Frozen).await?)
    }

    /// Calls Thaw at every custodian, because the tenant canceled the job. It also calls custodians that were
    /// never frozen: after a Thaw, a custodian refuses the late Freeze of a worker that died or lost its
    /// lease.
    pub(super) async fn thaw(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        self.ask_remaining(claim, StepKind::Thaw, |client, call| {
            async move { client.thaw(&call).await }.in_current_span().boxed()
        })
        .await?;
        Ok(self.transition(claim, Input::Thawed).await?)
    }
}
