//! `verified → committed`: owners let the subject's head go, the one that holds it last; then the receipt.

use svc_core::{
    data::{idempotency, pg::Tx},
    run::failpoint,
};

use super::{Driver, Stop, answered, call};
use crate::{
    domain::{
        custodian::Custodian,
        job::Input,
        receipt::{Body, Receipt},
        subject::Subject,
    },
    store::{
        claims::Claim,
        dead_letters, external_objects, jobs, receipts,
        steps::{self, Done, Step},
    },
};

impl Driver {
    /// Commits everywhere, one after the other, then here.
    pub(super) async fn commit(&self, claim: &mut Claim) -> Result<(), Stop> {
        let missing = self.missing(claim, Step::Commit).await?;
        for custodian in Custodian::commit_order(claim.subject.kind()) {
            if !missing.contains(&custodian) {
                continue;
            }
            let digest = self.roster.get(custodian).commit(&call(claim)).await?;
            failpoint::hit(answered(Step::Commit)).await;
            let at = self.clock.now();
            let done = Done { custodian, step: Step::Commit, epoch: claim.lease.epoch, digest, at };
            self.record(claim, done).await?;
        }
        self.receipt(claim).await
    }

    /// Receipt, audit row and final state, and the last things here that named the subject: all or none of it.
    async fn receipt(&self, claim: &mut Claim) -> Result<(), Stop> {
        let (job, now) = (&claim.job, self.clock.now());
        let mut tx = Tx::system(&self.pool).await?;
        // The job first: a worker that lost it must not keep the ledger waiting.
        let committed = self.apply(&mut tx, claim, Input::Receipted, None, now).await?;
        let head = receipts::lock_head(&mut tx).await?;
        let receipt = Receipt::seal(
            head,
            Body {
                purge_id: job.purge_id,
                kind: job.kind,
                subject_hash: job.subject_hash,
                trigger: job.trigger,
                epoch: claim.lease.epoch,
                rounds: job.record.rounds,
                requested_at: job.created_at,
                committed_at: now,
                custodians: steps::read_backs(&mut tx, job.purge_id).await?,
            },
        );
        receipts::append(&mut tx, &receipt).await?;
        external_objects::forget(&mut tx, job.purge_id).await?;
        dead_letters::forget(&mut tx, job.purge_id).await?;
        jobs::forget(&mut tx, &claim.subject).await?;
        match claim.subject {
            Subject::Account { account } => idempotency::erase_account(&mut tx, account).await?,
            Subject::Session { account, session } => {
                idempotency::erase_session(&mut tx, account, session).await?
            }
        };
        tx.commit().await?;
        self.metrics.committed(job.trigger, now - job.created_at);
        tracing::info!(purge.id = %job.purge_id, receipt.seq = receipt.seq, "erasure committed");
        claim.job.record = committed;
        Ok(())
    }
}
