//! `erasing → erased`: every owner deletes until it is through, in as many calls as it takes.

use futures::future::join_all;
use svc_core::{data::pg::Tx, id::new_id, run::failpoint};

use super::{Driver, Stop, answered, call};
use crate::{
    domain::{
        custodian::Custodian,
        external::{Erasure, ItemOutcome, ItemResult, Verdict},
        job::{Cause, Input},
    },
    store::{
        claims::Claim,
        dead_letters, external_objects, jobs,
        steps::{self, Done, Step},
    },
};

/// Calls of one owner after which its job makes room for others.
const MOST_CALLS: u32 = 1000;

/// How far an owner came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// To its end.
    Through,
    /// To something that cannot be deleted; that is on the list of dead letters.
    Refused,
}

impl Driver {
    /// Erases everywhere. What cannot be deleted goes to the dead letters, and keeps the job from going on.
    pub(super) async fn erase(&self, claim: &mut Claim) -> Result<(), Stop> {
        let missing = self.missing(claim, Step::Erase).await?.into_iter();
        let came = join_all(missing.map(|custodian| self.erase_at(claim, custodian))).await;
        let refused = came.iter().any(|came| matches!(came, Ok(Came::Refused)));
        if refused {
            return self.bury(claim).await;
        }
        came.into_iter().collect::<Result<Vec<_>, Stop>>()?;
        Ok(self.settle(claim, Input::Erased).await?)
    }

    async fn erase_at(&self, claim: &Claim, custodian: Custodian) -> Result<Came, Stop> {
        for _ in 0..MOST_CALLS {
            let (erasure, digest) = self.roster.get(custodian).erase(&call(claim)).await?;
            failpoint::hit(answered(Step::Erase)).await;
            self.note(claim, custodian, &erasure, digest).await?;
            match erasure.verdict() {
                Verdict::Done => return Ok(Came::Through),
                Verdict::More => {}
                Verdict::Later => return Err(Stop::Later(custodian)),
                Verdict::Refused => return Ok(Came::Refused),
            }
        }
        Err(Stop::Later(custodian))
    }

    /// Writes down what an owner did in one call. Only its last word makes a dead letter: as long as it gets on,
    /// it may get further with what it could not delete so far. And an owner that is through has none left.
    async fn note(
        &self,
        claim: &Claim,
        custodian: Custodian,
        erasure: &Erasure,
        digest: [u8; 32],
    ) -> Result<(), Stop> {
        let (purge_id, now) = (claim.job.purge_id, self.clock.now());
        let mut tx = self.hold(claim).await?;
        external_objects::settle(&mut tx, purge_id, custodian, &erasure.items, now).await?;
        match erasure.verdict() {
            Verdict::Done => {
                let done = Done { custodian, step: Step::Erase, epoch: claim.lease.epoch, digest, at: now };
                steps::record(&mut tx, purge_id, &done).await?;
                dead_letters::resolve_all(&mut tx, purge_id, custodian, now).await?;
            }
            Verdict::Refused => {
                let stuck = |item: &&ItemResult| item.outcome == ItemOutcome::Permanent;
                let letters: Vec<_> =
                    erasure.items.iter().filter(stuck).map(|item| (new_id(), item.clone())).collect();
                dead_letters::write(&mut tx, purge_id, custodian, &letters, now).await?;
            }
            Verdict::More | Verdict::Later => {}
        }
        Ok(tx.commit().await?)
    }

    /// Lays the job aside until an operator has settled its dead letters. Its row is locked first, as by the
    /// operator: if the last letter was settled a moment ago, the job tries again by itself.
    async fn bury(&self, claim: &mut Claim) -> Result<(), Stop> {
        let mut tx = Tx::system(&self.pool).await?;
        jobs::lock(&mut tx, None, claim.job.purge_id).await?;
        let input = match dead_letters::count_unresolved(&mut tx, claim.job.purge_id).await? {
            0 => Input::Failed {
                cause: Cause::ItemsPermanent,
                again: self.again(claim.job.record.attempts, None),
            },
            unresolved => {
                tracing::error!(purge.id = %claim.job.purge_id, unresolved, "purge waits for dead letters to be settled");
                Input::ItemsRefused
            }
        };
        let moved = self.apply(&mut tx, claim, input, None, self.clock.now()).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }
}
