//! `erased → verified`: every custodian counts how much of the subject is left, whatever it answered to
//! Erase.

use futures::future::join_all;
use svc_core::{custody::StepKind, data::pg::Tx, run::failpoint};

use super::{Driver, Incomplete, answered, step_call};
use crate::{
    domain::{
        custodian::Custodian,
        job::{Cause, Input},
    },
    store::{claims::Claim, steps},
};

impl Driver {
    /// Calls Verify at every custodian. If one of them has data left, all of them erase and verify again.
    pub(super) async fn verify(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let remaining = self.remaining(claim, StepKind::Verify).await?.into_iter();
        let residue = join_all(remaining.map(|custodian| self.read_back(claim, custodian))).await;
        if let Some(custodian) = residue.iter().find_map(|residue| residue.as_ref().ok().copied().flatten()) {
            return self.erase_again(claim, custodian).await;
        }
        residue.into_iter().collect::<Result<Vec<_>, Incomplete>>()?;
        Ok(self.transition(claim, Input::Clean).await?)
    }

    /// Reads back at one custodian; returns it if it has residue.
    async fn read_back(&self, claim: &Claim, custodian: Custodian) -> Result<Option<Custodian>, Incomplete> {
        let client = self.roster.get(custodian);
        let description = client.describe().await?;
        let read = client.verify(&step_call(claim), &description).await?;
        failpoint::hit(answered(StepKind::Verify)).await;
        if !read.residue.is_empty() {
            tracing::error!(
                purge.id = %claim.job.purge_id,
                custodian = custodian.service(),
                kinds = ?read.residue,
                "residue after an erasure",
            );
            return Ok(Some(custodian));
        }
        self.record(claim, custodian, StepKind::Verify, read.digest, read.verified_at).await?;
        Ok(None)
    }

    async fn erase_again(&self, claim: &mut Claim, custodian: Custodian) -> Result<(), Incomplete> {
        self.metrics.failed(Some(custodian), Cause::Residue);
        let retry = self.retry(claim.job.record.rounds, None);
        let mut tx = Tx::system(&self.pool).await?;
        let input = Input::Residue(retry.at);
        let moved = self.apply(&mut tx, claim, input, Some(custodian), self.clock.now()).await?;
        steps::void_erasure(&mut tx, claim.job.purge_id).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }
}
