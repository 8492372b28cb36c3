//! `verified → committed`: each custodian deletes its own row of the subject, the service that owns the
//! subject last; then purge-svc writes the receipt.

use svc_core::{
    custody::StepKind,
    data::{idempotency, pg::Tx},
    run::failpoint,
    subject::Subject,
};

use super::{Driver, Incomplete, answered, step_call};
use crate::{
    domain::{
        custodian::Custodian,
        job::Input,
        receipt::{Body, Receipt},
    },
    store::{claims::Claim, dead_letters, external_objects, jobs, receipts, steps},
};

impl Driver {
    /// Commits at the remaining custodians, one after the other, and then writes the receipt.
    pub(super) async fn commit(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let remaining = self.remaining(claim, StepKind::Commit).await?;
        for custodian in Custodian::commit_order(claim.subject.kind()) {
            if !remaining.contains(&custodian) {
                continue;
            }
            let digest = self.roster.get(custodian).commit(&step_call(claim)).await?;
            failpoint::hit(answered(StepKind::Commit)).await;
            self.record(claim, custodian, StepKind::Commit, digest, self.clock.now()).await?;
        }
        self.receipt(claim).await
    }

    /// Writes the receipt, the audit row and the final state, and deletes all data of purge-svc that names
    /// the subject, in one transaction.
    async fn receipt(&self, claim: &mut Claim) -> Result<(), Incomplete> {
        let (job, now) = (&claim.job, self.clock.now());
        let mut tx = Tx::system(&self.pool).await?;
        // Moves the job first: a worker that lost the job then fails here, before it locks the ledger.
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
        external_objects::delete_all(&mut tx, job.purge_id).await?;
        dead_letters::clear_object_ids(&mut tx, job.purge_id).await?;
        jobs::clear_subject(&mut tx, &claim.subject).await?;
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
