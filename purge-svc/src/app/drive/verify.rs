//! `erased → verified`: every owner reads back, apart from what it said when it deleted.

use futures::future::join_all;
use svc_core::{data::pg::Tx, run::failpoint};

use super::{Driver, Stop, answered, call};
use crate::{
    domain::{
        custodian::Custodian,
        job::{Cause, Input},
    },
    store::{
        claims::Claim,
        steps::{self, Done, Step},
    },
};

/// Whether an owner found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Something(Custodian),
}

impl Driver {
    /// Reads back everywhere. If anything is left anywhere, everybody is asked to erase and to read again.
    pub(super) async fn verify(&self, claim: &mut Claim) -> Result<(), Stop> {
        let missing = self.missing(claim, Step::Verify).await?.into_iter();
        let found = join_all(missing.map(|custodian| self.read_back(claim, custodian))).await;
        let residue = found.iter().find_map(|found| match found {
            Ok(Found::Something(custodian)) => Some(*custodian),
            Ok(Found::Nothing) | Err(_) => None,
        });
        if let Some(custodian) = residue {
            return self.erase_again(claim, custodian).await;
        }
        found.into_iter().collect::<Result<Vec<_>, Stop>>()?;
        Ok(self.settle(claim, Input::Clean).await?)
    }

    async fn read_back(&self, claim: &Claim, custodian: Custodian) -> Result<Found, Stop> {
        let remote = self.roster.get(custodian);
        let description = remote.describe().await?;
        let read = remote.verify(&call(claim), &description).await?;
        failpoint::hit(answered(Step::Verify)).await;
        if !read.residue.is_empty() {
            tracing::error!(
                purge.id = %claim.job.purge_id,
                custodian = custodian.service(),
                kinds = ?read.residue,
                "residue after an erasure",
            );
            return Ok(Found::Something(custodian));
        }
        let (digest, at) = (read.digest, read.verified_at);
        self.record(claim, Done { custodian, step: Step::Verify, epoch: claim.lease.epoch, digest, at })
            .await?;
        Ok(Found::Nothing)
    }

    async fn erase_again(&self, claim: &mut Claim, custodian: Custodian) -> Result<(), Stop> {
        self.metrics.failed(Some(custodian), Cause::Residue);
        let again = self.again(claim.job.record.rounds, None);
        let mut tx = Tx::system(&self.pool).await?;
        let input = Input::Residue(again.at);
        let moved = self.apply(&mut tx, claim, input, Some(custodian), self.clock.now()).await?;
        steps::void_erasure(&mut tx, claim.job.purge_id).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }
}
