//! Drives a claimed job, one step at a time.
//!
//! A step calls the custodians (the services that hold data) with no transaction open and records each
//! answer. It then moves the job to its next state, in one UPDATE that checks the job's generation and the
//! epoch of the worker's lease. If the worker dies in between, the next worker calls the custodians that have
//! no recorded answer, with a higher epoch; a custodian that has done the step already sends its stored
//! answer. A worker that lost its lease without noticing cannot write, and a custodian refuses its epoch once
//! it has seen a higher one.
//!
//! The point of no return ([`clear`]) and the receipt ([`commit`]) have a transaction each.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, join_all};
use svc_core::{
    custody::StepKind,
    data::{
        audit::{self, Act as AuditRow},
        lease::item,
        pg::{self, Pool, Tx},
    },
    error::Chain,
    run::{clock::SharedClock, failpoint},
};
use tracing::Instrument;

use crate::{
    client::{
        Roster,
        custodian::{self, CustodianClient, StepCall},
    },
    domain::{
        custodian::Custodian,
        job::{self, Cause, Input, Phase},
        schedule::{Policy, Retry},
    },
    metrics::Metrics,
    store::{
        claims::{Claim, JobLeases},
        jobs,
        steps::{self, Done},
    },
};

mod clear;
mod commit;
mod erase;
mod freeze;
mod inventory;
mod verify;

/// Tells what can be done with a job after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The step is done; the next may begin at once.
    Advanced,
    /// The job waits for its next attempt or for an operator.
    Waits,
    /// The job is final.
    Final,
    /// Another worker has the job.
    Lost,
}

/// Drives jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Driver {
    pool: Pool,
    roster: Roster,
    clock: SharedClock,
    policy: Policy,
    metrics: Metrics,
}

/// Why a step is not done.
#[derive(Debug)]
enum Incomplete {
    /// A custodian failed or refused.
    Custodian(custodian::Error),
    /// A custodian cannot delete an object now, but may later.
    Later(Custodian),
    Pg(pg::Error),
}

impl From<pg::Error> for Incomplete {
    fn from(error: pg::Error) -> Self {
        Self::Pg(error)
    }
}

impl From<custodian::Error> for Incomplete {
    fn from(error: custodian::Error) -> Self {
        Self::Custodian(error)
    }
}

impl Driver {
    pub const fn new(
        pool: Pool,
        roster: Roster,
        clock: SharedClock,
        policy: Policy,
        metrics: Metrics,
    ) -> Self {
        Self { pool, roster, clock, policy, metrics }
    }

    /// Does the next step of a job and updates the job in `claim`.
    ///
    /// # Errors
    /// [`pg::Error`] if the database failed; answers of custodians that were recorded before stay recorded.
    pub async fn advance(&self, claim: &mut Claim) -> Result<Progress, pg::Error> {
        let record = claim.job.record;
        let Some(phase) = record.state.workable() else { return Ok(progress(claim)) };
        let span = tracing::info_span!(
            "purge.step",
            purge.id = %claim.job.purge_id,
            purge.phase = ?phase,
            purge.epoch = claim.lease.epoch,
        );
        async {
            let stepped = match phase {
                _ if record.canceling => self.thaw(claim).await,
                Phase::Pending => self.freeze(claim).await,
                Phase::Frozen => self.inventory(claim).await,
                Phase::Inventoried => self.clear(claim).await,
                Phase::Erasing => self.erase(claim).await,
                Phase::Erased => self.verify(claim).await,
                Phase::Verified => self.commit(claim).await,
            };
            let settled = match stepped {
                Ok(()) => Ok(()),
                Err(Incomplete::Custodian(error)) => self.fail_at(claim, &error).await,
                Err(Incomplete::Later(custodian)) => {
                    self.fail(claim, Some(custodian), Cause::ItemsTransient, None).await
                }
                Err(Incomplete::Pg(error)) => Err(error),
            };
            match settled {
                Ok(()) => {
                    failpoint::hit(passed(claim.job.record.state)).await;
                    Ok(progress(claim))
                }
                Err(pg::Error::Stale { .. } | pg::Error::Fenced(_)) => self.reload(claim).await,
                Err(error) => Err(error),
            }
        }
        .instrument(span)
        .await
    }

    /// Reads the job again after [`jobs::save`] found it changed, by another worker or by the tenant.
    async fn reload(&self, claim: &mut Claim) -> Result<Progress, pg::Error> {
        let mut db = self.pool.acquire().await?;
        match jobs::reread(&mut db, &claim.lease).await? {
            Some(job) => {
                claim.job = job;
                Ok(progress(claim))
            }
            None => {
                tracing::info!(purge.id = %claim.job.purge_id, "another worker has taken this purge");
                Ok(Progress::Lost)
            }
        }
    }

    /// Applies `input` to the job and stores the result, in a transaction of its own.
    async fn transition(&self, claim: &mut Claim, input: Input) -> Result<(), pg::Error> {
        let tx = Tx::system(&self.pool).await?;
        self.commit_moved(tx, claim, input, None).await
    }

    /// Applies `input` to the job as the last write of `tx`, and commits `tx`.
    async fn commit_moved(
        &self,
        mut tx: Tx,
        claim: &mut Claim,
        input: Input,
        waits_for: Option<Custodian>,
    ) -> Result<(), pg::Error> {
        let moved = self.apply(&mut tx, claim, input, waits_for, self.clock.now()).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }

    /// Applies `input` to the job at `now` and stores the result, with the audit row if there is one, in
    /// `tx`. Returns the new record; the caller puts it into the claim after the commit.
    async fn apply(
        &self,
        tx: &mut Tx,
        claim: &Claim,
        input: Input,
        waits_for: Option<Custodian>,
        now: DateTime<Utc>,
    ) -> Result<job::Record, pg::Error> {
        let job = &claim.job;
        let transition = job::next(&job.record, input, now)
            .map_err(|refused| pg::Error::inconsistent("purge_jobs", "state", job.purge_id, refused))?;
        let epoch = Some(claim.lease.epoch);
        jobs::save(tx, job.purge_id, &job.record, &transition.record, waits_for, epoch).await?;
        if let Some(act) = transition.act {
            let row = AuditRow {
                act: act.name(),
                subject: claim.subject.hash(),
                generation: transition.record.generation,
                principal_id: job.requested_by.as_deref().unwrap_or("purge-svc"),
                at: now,
            };
            audit::record(tx, &row).await?;
        }
        Ok(transition.record)
    }

    async fn fail_at(&self, claim: &mut Claim, error: &custodian::Error) -> Result<(), pg::Error> {
        tracing::warn!(
            purge.id = %claim.job.purge_id,
            custodian = error.custodian().service(),
            error = %Chain(error),
            "custodian failed or refused",
        );
        self.fail(claim, Some(error.custodian()), error.cause(), error.retry_after()).await
    }

    /// Counts a failure of purge-svc itself against the job, which then waits for its next attempt.
    ///
    /// # Errors
    /// [`pg::Error`] if the failure cannot be stored; another worker then continues the job once its lease
    /// has ended.
    pub async fn fail_internally(&self, claim: &mut Claim) -> Result<(), pg::Error> {
        self.fail(claim, None, Cause::Internal, None).await
    }

    async fn fail(
        &self,
        claim: &mut Claim,
        custodian: Option<Custodian>,
        cause: Cause,
        asked: Option<Duration>,
    ) -> Result<(), pg::Error> {
        let retry = self.retry(claim.job.record.attempts, asked);
        self.metrics.failed(custodian, cause);
        if retry.parked {
            tracing::error!(
                purge.id = %claim.job.purge_id,
                custodian = custodian.map(Custodian::service),
                cause = cause.name(),
                next_attempt_at = %retry.at,
                "purge keeps failing and is parked",
            );
        }
        let tx = Tx::system(&self.pool).await?;
        self.commit_moved(tx, claim, Input::Failed { cause, retry }, custodian).await
    }

    /// Returns when to try again after one more failure. `failures` is the number of failures in a row before
    /// it; `asked` is the delay that the custodian asked for.
    fn retry(&self, failures: u32, asked: Option<Duration>) -> Retry {
        self.policy.retry(failures.saturating_add(1), asked, self.clock.now(), rand::random())
    }

    /// Calls every custodian that has not done `step` yet, concurrently, and records each that has. A
    /// recorded custodian is not called again for this step.
    async fn ask_remaining<'a, F>(
        &'a self,
        claim: &'a Claim,
        step: StepKind,
        ask: F,
    ) -> Result<(), Incomplete>
    where
        F: Fn(&'a CustodianClient, StepCall) -> BoxFuture<'a, Result<[u8; 32], custodian::Error>>,
    {
        let answers = self.remaining(claim, step).await?.into_iter().map(|custodian| {
            let asked = ask(self.roster.get(custodian), step_call(claim));
            async move {
                let digest = asked.await?;
                failpoint::hit(answered(step)).await;
                Ok(self.record(claim, custodian, step, digest, self.clock.now()).await?)
            }
        });
        // Calls them all at once, so that a slow custodian does not delay the other two.
        join_all(answers).await.into_iter().collect()
    }

    /// Returns the custodians that have not done `step` yet.
    async fn remaining(&self, claim: &Claim, step: StepKind) -> Result<Vec<Custodian>, pg::Error> {
        let mut db = self.pool.acquire().await?;
        let done = steps::done_by(&mut db, claim.job.purge_id, step).await?;
        Ok(Custodian::ALL.into_iter().filter(|custodian| !done.contains(custodian)).collect())
    }

    /// Records that a custodian has done a step, if this worker still has the job.
    async fn record(
        &self,
        claim: &Claim,
        custodian: Custodian,
        step: StepKind,
        digest: [u8; 32],
        at: DateTime<Utc>,
    ) -> Result<(), pg::Error> {
        let mut tx = self.fence(claim).await?;
        let done = Done { custodian, step, epoch: claim.lease.epoch, digest, at };
        steps::record(&mut tx, claim.job.purge_id, &done).await?;
        tx.commit().await
    }

    /// Begins a transaction that locks the job's row, so that no other worker can claim the job until the
    /// transaction ends.
    async fn fence(&self, claim: &Claim) -> Result<Tx, pg::Error> {
        let mut tx = Tx::system(&self.pool).await?;
        item::hold::<JobLeases>(&mut tx, &claim.lease).await?;
        Ok(tx)
    }
}

const fn step_call(claim: &Claim) -> StepCall {
    StepCall { purge_id: claim.job.purge_id, epoch: claim.lease.epoch, subject: claim.subject }
}

fn progress(claim: &Claim) -> Progress {
    match claim.job.record.state {
        job::State::Committed | job::State::Thawed => Progress::Final,
        job::State::DeadLettered => Progress::Waits,
        job::State::Working(_) | job::State::Blocked(_) if claim.job.record.cause.is_some() => {
            Progress::Waits
        }
        job::State::Working(_) | job::State::Blocked(_) => Progress::Advanced,
    }
}

/// Returns the name of the fail point that is hit when a job has reached `state`.
const fn passed(state: job::State) -> &'static str {
    match state {
        job::State::Working(Phase::Pending) => "purge.pending",
        job::State::Working(Phase::Frozen) => "purge.frozen",
        job::State::Working(Phase::Inventoried) => "purge.inventoried",
        job::State::Working(Phase::Erasing) => "purge.erasing",
        job::State::Working(Phase::Erased) => "purge.erased",
        job::State::Working(Phase::Verified) => "purge.verified",
        job::State::Blocked(_) => "purge.blocked",
        job::State::DeadLettered => "purge.dead_lettered",
        job::State::Committed => "purge.committed",
        job::State::Thawed => "purge.thawed",
    }
}

/// Returns the name of the fail point between a custodian's answer and the write that records it.
const fn answered(step: StepKind) -> &'static str {
    match step {
        StepKind::Freeze => "purge.freeze.answered",
        StepKind::Inventory => "purge.inventory.answered",
        StepKind::Erase => "purge.erase.answered",
        StepKind::Verify => "purge.verify.answered",
        StepKind::Commit => "purge.commit.answered",
        StepKind::Thaw => "purge.thaw.answered",
    }
}
