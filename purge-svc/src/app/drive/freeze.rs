//! `pending → frozen`: every owner stops its writers. And back: every owner lets them go on.

use futures::{FutureExt, future::join_all};
use svc_core::data::pg::Tx;
use tracing::Instrument;

use super::{Driver, Stop};
use crate::{
    domain::{custodian::Custodian, hold, job::Input},
    store::{claims::Claim, holds, steps::Step},
};

impl Driver {
    /// Stops every writer, if everybody who must take part is there, holds what it should, and no hold stands.
    pub(super) async fn freeze(&self, claim: &mut Claim) -> Result<(), Stop> {
        let covering = hold::covering(&claim.subject);
        let mut tx = Tx::system(&self.pool).await?;
        // Until the job waits: a release in between would wake it too early, and never again.
        holds::lock_subjects(&mut tx, &covering).await?;
        if let Some(until) = holds::held_until(&mut tx, &covering, self.clock.now()).await? {
            let waits = self.apply(&mut tx, claim, Input::Held(until), None, self.clock.now()).await?;
            tx.commit().await?;
            claim.job.record = waits;
            return Ok(());
        }
        tx.rollback().await?;
        // Before anything is stopped: a job that could never end shall not begin.
        let described = Custodian::ALL.map(|custodian| self.roster.get(custodian).describe());
        for description in join_all(described).await {
            description?;
        }
        self.each(claim, Step::Freeze, |remote, call| {
            async move {
                let frozen = remote.freeze(&call).await?;
                if !frozen.known {
                    tracing::debug!(purge.id = %call.purge_id, "owner of data has nothing of this subject");
                }
                Ok(frozen.digest)
            }
            .in_current_span()
            .boxed()
        })
        .await?;
        Ok(self.settle(claim, Input::Frozen).await?)
    }

    /// Lets every writer go on: the job's owner called it back. Every owner is told, also one that was never frozen:
    /// only then does it refuse a freeze that is still on its way, from a worker that died or was overtaken.
    pub(super) async fn thaw(&self, claim: &mut Claim) -> Result<(), Stop> {
        self.each(claim, Step::Thaw, |remote, call| {
            async move { remote.thaw(&call).await }.in_current_span().boxed()
        })
        .await?;
        Ok(self.settle(claim, Input::Thawed).await?)
    }
}
