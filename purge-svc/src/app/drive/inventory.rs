//! `frozen → inventoried`: what the subject has outside Postgres is copied to the job's own list, before
//! anything is deleted. An id that only its owner knew would be lost with the owner's row.

use futures::future::join_all;
use svc_core::run::failpoint;

use super::{Driver, Stop, answered, call};
use crate::{
    domain::{custodian::Custodian, job::Input},
    store::{
        claims::Claim,
        external_objects,
        steps::{Done, Step},
    },
};

impl Driver {
    /// Copies every owner's list.
    pub(super) async fn inventory(&self, claim: &mut Claim) -> Result<(), Stop> {
        let lists = self.missing(claim, Step::Inventory).await?.into_iter();
        let copied = lists.map(|custodian| self.copy_list(claim, custodian));
        join_all(copied).await.into_iter().collect::<Result<(), Stop>>()?;
        Ok(self.settle(claim, Input::Inventoried).await?)
    }

    /// A list that breaks off counts for nothing; what was copied of it does no harm.
    async fn copy_list(&self, claim: &Claim, custodian: Custodian) -> Result<(), Stop> {
        let remote = self.roster.get(custodian);
        let description = remote.describe().await?;
        let mut objects = remote.inventory(&call(claim), &description).await?;
        loop {
            let batch = objects.next().await?;
            if batch.is_empty() {
                break;
            }
            let mut tx = self.hold(claim).await?;
            let now = self.clock.now();
            external_objects::copy(&mut tx, claim.job.purge_id, custodian, &batch, now).await?;
            tx.commit().await?;
        }
        failpoint::hit(answered(Step::Inventory)).await;
        let (digest, at) = (objects.digest(), self.clock.now());
        let done = Done { custodian, step: Step::Inventory, epoch: claim.lease.epoch, digest, at };
        Ok(self.record(claim, done).await?)
    }
}
