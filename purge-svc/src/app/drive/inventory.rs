//! `frozen → inventoried`: copies the ids of the subject's objects outside Postgres before anything is
//! deleted, because an id that only a row of the custodian contains would be lost with that row.

use futures::future::join_all;
use svc_core::{custody::StepKind, run::failpoint};

use super::{Driver, Incomplete, answered, step_call};
use crate::{
    domain::{custodian::Custodian, job::Input},
    store::{claims::Claim, external_objects},
};

impl Driver {
    /// Copies the list of every custodian.
    pub(super) async fn inventory(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let lists = self.remaining(claim, StepKind::Inventory).await?.into_iter();
        let copied = lists.map(|custodian| self.copy_list(claim, custodian));
        join_all(copied).await.into_iter().collect::<Result<(), Incomplete>>()?;
        Ok(self.transition(claim, Input::Inventoried).await?)
    }

    /// Copies the list of one custodian. If the list breaks off, the step is not recorded, and the next
    /// attempt copies the list again.
    async fn copy_list(&self, claim: &Claim, custodian: Custodian) -> Result<(), Incomplete> {
        let client = self.roster.get(custodian);
        let description = client.describe().await?;
        let mut objects = client.inventory(&step_call(claim), &description).await?;
        loop {
            let batch = objects.next().await?;
            if batch.is_empty() {
                break;
            }
            let mut tx = self.fence(claim).await?;
            let now = self.clock.now();
            external_objects::copy(&mut tx, claim.job.purge_id, custodian, &batch, now).await?;
            tx.commit().await?;
        }
        failpoint::hit(answered(StepKind::Inventory)).await;
        let (digest, at) = (objects.digest(), self.clock.now());
        Ok(self.record(claim, custodian, StepKind::Inventory, digest, at).await?)
    }
}
