//! Drives a job that a worker holds, one step at a time.
//!
//! A step asks the owners of data over the network with no transaction open, records who answered, and then
//! moves the job in one guarded write. A worker may die anywhere in between: whoever takes the job next asks
//! again, with a higher epoch, and owners answer as before. A worker that lost its lease without noticing
//! cannot write, and owners refuse its epoch as soon as they have seen its successor's.
//!
//! The point of no return ([`clear`]) and the receipt ([`commit`]) are transactions of their own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, join_all};
use svc_core::{
    data::{
        audit::{self, Act as AuditRow, SubjectHash},
        lease::item,
        pg::{self, Pool, Tx},
    },
    run::{clock::SharedClock, failpoint},
    wire::error::Chain,
};
use tracing::Instrument;

use crate::{
    custodian::{self, Call, Remote, Roster},
    domain::{
        custodian::Custodian,
        job::{self, Cause, Input, Phase},
        schedule::{Again, Policy},
    },
    metrics::Metrics,
    store::{
        claims::{Claim, JobLeases},
        jobs,
        steps::{self, Done, Step},
    },
};

mod clear;
mod commit;
mod erase;
mod freeze;
mod inventory;
mod verify;

/// What became of a claimed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A step is done; there is another.
    Advanced,
    /// It waits: for its next attempt, or for an operator.
    Waits,
    /// It is over.
    Final,
    /// Another worker has it.
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

/// Why a step did not get on.
#[derive(Debug)]
enum Stop {
    /// An owner did not do its part.
    Custodian(custodian::Error),
    /// An owner cannot delete something now.
    Later(Custodian),
    /// The database did not do it.
    Pg(pg::Error),
}

impl From<pg::Error> for Stop {
    fn from(error: pg::Error) -> Self {
        Self::Pg(error)
    }
}

impl From<custodian::Error> for Stop {
    fn from(error: custodian::Error) -> Self {
        Self::Custodian(error)
    }
}

impl Driver {
    /// A driver of jobs in `pool` with the owners in `roster`.
    #[must_use]
    pub const fn new(
        pool: Pool,
        roster: Roster,
        clock: SharedClock,
        policy: Policy,
        metrics: Metrics,
    ) -> Self {
        Self { pool, roster, clock, policy, metrics }
    }

    /// Does the next step of a job, and leaves in `claim` what the job became.
    ///
    /// # Errors
    /// [`pg::Error`] if the database could not be used; what was done by then is not lost.
    pub async fn advance(&self, claim: &mut Claim) -> Result<Progress, pg::Error> {
        let record = claim.job.record;
        let Some(phase) = record.state.workable() else { return Ok(standing(claim)) };
        let span = tracing::info_span!(
            "purge.step",
            purge.id = %claim.job.purge_id,
            purge.phase = ?phase,
            purge.epoch = claim.lease.epoch,
        );
        async {
            let stepped = match phase {
                _ if record.giving_up => self.thaw(claim).await,
                Phase::Pending => self.freeze(claim).await,
                Phase::Frozen => self.inventory(claim).await,
                Phase::Inventoried => self.clear(claim).await,
                Phase::Erasing => self.erase(claim).await,
                Phase::Erased => self.verify(claim).await,
                Phase::Verified => self.commit(claim).await,
            };
            let settled = match stepped {
                Ok(()) => Ok(()),
                Err(Stop::Custodian(error)) => self.fail_at(claim, &error).await,
                Err(Stop::Later(custodian)) => {
                    self.fail(claim, Some(custodian), Cause::ItemsTransient, None).await
                }
                Err(Stop::Pg(error)) => Err(error),
            };
            match settled {
                Ok(()) => {
                    failpoint::hit(passed(claim.job.record.state)).await;
                    Ok(standing(claim))
                }
                Err(pg::Error::Stale { .. } | pg::Error::Fenced(_)) => self.look_again(claim).await,
                Err(error) => Err(error),
            }
        }
        .instrument(span)
        .await
    }

    /// After a write that did not hit: either somebody else holds the job, or its owner changed it meanwhile.
    async fn look_again(&self, claim: &mut Claim) -> Result<Progress, pg::Error> {
        let mut db = self.pool.acquire().await?;
        match jobs::reread(&mut db, &claim.lease).await? {
            Some(job) => {
                claim.job = job;
                Ok(standing(claim))
            }
            None => {
                tracing::info!(purge.id = %claim.job.purge_id, "another worker has taken this purge");
                Ok(Progress::Lost)
            }
        }
    }

    /// Moves the job by `input`, in a transaction of its own.
    async fn settle(&self, claim: &mut Claim, input: Input) -> Result<(), pg::Error> {
        let mut tx = Tx::system(&self.pool).await?;
        let moved = self.apply(&mut tx, claim, input, None, self.clock.now()).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }

    /// Moves the job by `input`, at `now`, as part of `tx`, audit row included. The claim is to be changed once
    /// that is committed.
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
                subject: SubjectHash::of(claim.subject.kind().name(), claim.subject.id()),
                generation: transition.record.generation,
                principal_id: job.requested_by.as_deref().unwrap_or("purge-svc"),
                at: now,
            };
            audit::record(tx, &row).await?;
        }
        Ok(transition.record)
    }

    /// An owner did not do its part: once more, later.
    async fn fail_at(&self, claim: &mut Claim, error: &custodian::Error) -> Result<(), pg::Error> {
        tracing::warn!(
            purge.id = %claim.job.purge_id,
            custodian = error.custodian().service(),
            error = %Chain(error),
            "owner of data did not do its part",
        );
        self.fail(claim, Some(error.custodian()), error.cause(), error.retry_after()).await
    }

    /// Something went wrong here, not at an owner: the job steps back, so that it does not keep the workers busy.
    ///
    /// # Errors
    /// [`pg::Error`] if that could not be written either; its lease runs out by itself.
    pub async fn step_back(&self, claim: &mut Claim) -> Result<(), pg::Error> {
        self.fail(claim, None, Cause::Internal, None).await
    }

    async fn fail(
        &self,
        claim: &mut Claim,
        custodian: Option<Custodian>,
        cause: Cause,
        asked: Option<Duration>,
    ) -> Result<(), pg::Error> {
        let again = self.again(claim.job.record.attempts, asked);
        self.metrics.failed(custodian, cause);
        if again.parked {
            tracing::error!(
                purge.id = %claim.job.purge_id,
                custodian = custodian.map(Custodian::service),
                cause = cause.name(),
                next_attempt_at = %again.at,
                "purge keeps failing and is parked",
            );
        }
        let mut tx = Tx::system(&self.pool).await?;
        let input = Input::Failed { cause, again };
        let moved = self.apply(&mut tx, claim, input, custodian, self.clock.now()).await?;
        tx.commit().await?;
        claim.job.record = moved;
        Ok(())
    }

    /// When to try again after one failure more than `failures`.
    fn again(&self, failures: u32, asked: Option<Duration>) -> Again {
        self.policy.again(failures.saturating_add(1), asked, self.clock.now(), rand::random())
    }

    /// Asks every owner that has not done `step` yet, all at once, and records each that has. Those that have
    /// are not asked again, however many workers it takes.
    async fn each<'a, F>(&'a self, claim: &'a Claim, step: Step, ask: F) -> Result<(), Stop>
    where
        F: Fn(&'a Remote, Call) -> BoxFuture<'a, Result<[u8; 32], custodian::Error>>,
    {
        let answers = self.missing(claim, step).await?.into_iter().map(|custodian| {
            let asked = ask(self.roster.get(custodian), call(claim));
            async move {
                let digest = asked.await?;
                failpoint::hit(answered(step)).await;
                let at = self.clock.now();
                self.record(claim, Done { custodian, step, epoch: claim.lease.epoch, digest, at }).await?;
                Ok(())
            }
        });
        // Whoever can is not kept waiting by whoever cannot.
        join_all(answers).await.into_iter().collect()
    }

    /// Owners that have not done `step` yet.
    async fn missing(&self, claim: &Claim, step: Step) -> Result<Vec<Custodian>, pg::Error> {
        let mut db = self.pool.acquire().await?;
        let done = steps::done_by(&mut db, claim.job.purge_id, step).await?;
        Ok(Custodian::ALL.into_iter().filter(|custodian| !done.contains(custodian)).collect())
    }

    /// Records that an owner has done a step, if the job is still ours.
    async fn record(&self, claim: &Claim, done: Done) -> Result<(), pg::Error> {
        let mut tx = self.hold(claim).await?;
        steps::record(&mut tx, claim.job.purge_id, &done).await?;
        tx.commit().await
    }

    /// A transaction in which nobody can take the job.
    async fn hold(&self, claim: &Claim) -> Result<Tx, pg::Error> {
        let mut tx = Tx::system(&self.pool).await?;
        item::hold::<JobLeases>(&mut tx, &claim.lease).await?;
        Ok(tx)
    }
}

const fn call(claim: &Claim) -> Call {
    Call { purge_id: claim.job.purge_id, epoch: claim.lease.epoch, subject: claim.subject }
}

/// What a worker should do with a job that stands so.
fn standing(claim: &Claim) -> Progress {
    match claim.job.record.state {
        job::State::Committed | job::State::Thawed => Progress::Final,
        job::State::DeadLettered => Progress::Waits,
        job::State::Working(_) | job::State::Blocked(_) if claim.job.record.cause.is_some() => {
            Progress::Waits
        }
        job::State::Working(_) | job::State::Blocked(_) => Progress::Advanced,
    }
}

/// Fail point after a job has come to stand so.
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

/// Fail point between an owner's answer and its record.
const fn answered(step: Step) -> &'static str {
    match step {
        Step::Freeze => "purge.freeze.answered",
        Step::Inventory => "purge.inventory.answered",
        Step::Erase => "purge.erase.answered",
        Step::Verify => "purge.verify.answered",
        Step::Commit => "purge.commit.answered",
        Step::Thaw => "purge.thaw.answered",
    }
}
