//! `erasing → erased`: calls Erase at every custodian, repeatedly, until the custodian answers that it is
//! done.

use futures::future::join_all;
use svc_core::{custody::StepKind, data::pg::Tx, id::new_id, run::failpoint};

use super::{Driver, Incomplete, answered, step_call};
use crate::{
    domain::{
        custodian::Custodian,
        external::{Erasure, ItemOutcome, ItemResult, Verdict},
        job::{Cause, Input},
    },
    store::{
        claims::Claim,
        dead_letters, external_objects, jobs,
        steps::{self, Done},
    },
};

/// Maximum calls of Erase to one custodian in one attempt. After them the job waits, so that the worker can
/// take another job.
const MAX_CALLS: u32 = 1000;

impl Driver {
    /// Calls Erase at every custodian. An object that cannot be deleted becomes a dead letter, which stops
    /// the job.
    pub(super) async fn erase(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let remaining = self.remaining(claim, StepKind::Erase).await?.into_iter();
        let done = join_all(remaining.map(|custodian| self.erase_at(claim, custodian))).await;
        if done.iter().any(|done| matches!(done, Ok(false))) {
            return self.dead_letter(claim).await;
        }
        done.into_iter().collect::<Result<Vec<_>, Incomplete>>()?;
        Ok(self.transition(claim, Input::Erased).await?)
    }

    /// Calls Erase at one custodian. Returns whether the custodian is done; if not, the dead letters say
    /// which objects it refused to delete.
    async fn erase_at(&self, claim: &Claim, custodian: Custodian) -> Result<bool, Incomplete> {
        for _ in 0..MAX_CALLS {
            let (erasure, digest) = self.roster.get(custodian).erase(&step_call(claim)).await?;
            failpoint::hit(answered(StepKind::Erase)).await;
            self.record_erasure(claim, custodian, &erasure, digest).await?;
            match erasure.verdict() {
                Verdict::Done => return Ok(true),
                Verdict::More => {}
                Verdict::Later => return Err(Incomplete::Later(custodian)),
                Verdict::Refused => return Ok(false),
            }
        }
        Err(Incomplete::Later(custodian))
    }

    /// Records one answer of a custodian. Dead letters are written only for an answer without progress: until
    /// then a later call may still delete the object. A custodian that is done has no unresolved letter left.
    async fn record_erasure(
        &self,
        claim: &Claim,
        custodian: Custodian,
        erasure: &Erasure,
        digest: [u8; 32],
    ) -> Result<(), Incomplete> {
        let (purge_id, now) = (claim.job.purge_id, self.clock.now());
        let mut tx = self.fence(claim).await?;
        external_objects::record_outcomes(&mut tx, purge_id, custodian, &erasure.items, now).await?;
        match erasure.verdict() {
            Verdict::Done => {
                let (step, epoch) = (StepKind::Erase, claim.lease.epoch);
                let done = Done { custodian, step, epoch, digest, at: now };
                steps::record(&mut tx, purge_id, &done).await?;
                dead_letters::resolve_all(&mut tx, purge_id, custodian, now).await?;
            }
            Verdict::Refused => {
                let permanent = |item: &&ItemResult| item.outcome == ItemOutcome::Permanent;
                let letters: Vec<_> =
                    erasure.items.iter().filter(permanent).map(|item| (new_id(), item.clone())).collect();
                dead_letters::write(&mut tx, purge_id, custodian, &letters, now).await?;
            }
            Verdict::More | Verdict::Later => {}
        }
        Ok(tx.commit().await?)
    }

    /// Stops the job until an operator has resolved its dead letters. Like the request that resolves a
    /// letter, it locks the job's row first: if that request has just resolved the last letter, the job only
    /// waits for its next attempt.
    async fn dead_letter(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let mut tx = Tx::system(&self.pool).await?;
        jobs::lock(&mut tx, None, claim.job.purge_id).await?;
        let input = match dead_letters::count_unresolved(&mut tx, claim.job.purge_id).await? {
            0 => Input::Failed {
                cause: Cause::ItemsPermanent,
                retry: self.retry(claim.job.record.attempts, None),
            },
            unresolved => {
                tracing::error!(purge.id = %claim.job.purge_id, unresolved, "purge is dead-lettered");
                Input::ItemsRefused
            }
        };
        Ok(self.commit_moved(tx, claim, input, None).await?)
    }
}
