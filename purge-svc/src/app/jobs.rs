//! Accepts, shows and cancels jobs for the account that they belong to.

use std::sync::Arc;

use svc_core::{
    data::{
        idempotency::{Once, Opened},
        pg::{Pool, Tx},
        wake::Wake,
    },
    id::{AccountId, PurgeId, SessionId},
    run::clock::SharedClock,
    subject::Subject,
    wire::{
        client::Sessions,
        page::{self, Page},
    },
};

use crate::{
    domain::{
        job::{self, Input, Job, JobFilter, Record, State},
        receipt::Receipt,
        trigger::Trigger,
    },
    error::{Entity, Error},
    store::{
        jobs::{self, NewJob},
        receipts,
    },
};

/// Topic on which workers are notified of due jobs.
pub const TOPIC: &str = "purge.jobs";

const LISTING: &str = "purge.jobs";

/// Jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub pool: Pool,
    pub sessions: Sessions,
    pub wake: Wake,
    pub clock: SharedClock,
    /// Triggers of the jobs that are worked on.
    pub enabled: Arc<[Trigger]>,
}

/// A job as its tenant sees it.
#[derive(Debug, Clone)]
pub struct PurgeView {
    pub job: Job,
    /// The receipt, once the job is committed.
    pub receipt: Option<Receipt>,
    /// Whether jobs of this trigger are worked on.
    pub enabled: bool,
}

/// A tenant's request to erase a session.
#[derive(Debug, Clone)]
pub struct PurgeRequest {
    pub account: AccountId,
    pub session: SessionId,
    pub principal_id: String,
    /// Trace of the request.
    pub traceparent: Option<String>,
    pub once: Once,
}

impl Jobs {
    /// Accepts the erasure of a session; workers then carry it out. A repeated request returns the same job,
    /// also when the session is already erased.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account has no such session.
    pub async fn accept(&self, request: &PurgeRequest) -> Result<PurgeView, Error> {
        let subject = Subject::Session { account: request.account, session: request.session };
        if let Some(known) = self.find_known(request, &subject).await? {
            return Ok(known);
        }
        // Asks with no transaction open, because chat-svc may be slow.
        if !self.sessions.exists(request.account, request.session).await? {
            return Err(Error::NotFound(Entity::Session));
        }
        let now = self.clock.now();
        let purge_id = PurgeId::new();
        let new = NewJob {
            purge_id,
            subject,
            trigger: Trigger::UserErasure,
            requested_by: &request.principal_id,
            record: Record::accepted(now),
            cause_traceparent: request.traceparent.as_deref(),
            created_at: now,
        };
        let (mut tx, slot) = match request.once.open(&self.pool, Some(request.account)).await? {
            Opened::Replay(made) => return self.get(Some(request.account), made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        let done = async {
            jobs::insert(&mut tx, &new).await?;
            // Finds this request's job, or the job of a concurrent request.
            let job = jobs::find_by_subject(&mut tx, request.account, subject.hash()).await?;
            let job = job.ok_or(Error::NotFound(Entity::Session))?;
            slot.of_session(request.session).finish(&mut tx, &job.purge_id).await?;
            Ok::<_, Error>(job)
        }
        .await;
        let job = tx.end(done).await?;
        self.wake.publish(TOPIC, b"").await;
        self.show(job).await
    }

    /// Finds the answer to a repeated request without a call to chat-svc.
    async fn find_known(
        &self,
        request: &PurgeRequest,
        subject: &Subject,
    ) -> Result<Option<PurgeView>, Error> {
        let (mut tx, slot) = match request.once.open(&self.pool, Some(request.account)).await? {
            Opened::Replay(made) => return self.get(Some(request.account), made).await.map(Some),
            Opened::First(tx, slot) => (tx, slot),
        };
        let Some(job) = jobs::find_by_subject(&mut tx, request.account, subject.hash()).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        slot.of_session(request.session).finish(&mut tx, &job.purge_id).await?;
        tx.commit().await?;
        self.show(job).await.map(Some)
    }

    /// Returns a job of this account, or of any account if none is given (for operators).
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such job.
    pub async fn get(&self, account: Option<AccountId>, purge_id: PurgeId) -> Result<PurgeView, Error> {
        let job = {
            let mut db = self.pool.acquire().await?;
            jobs::find(&mut db, account, purge_id).await?
        };
        self.show(job.ok_or(Error::NotFound(Entity::Purge))?).await
    }

    /// Returns one page of an account's jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the token is not one of this list.
    pub async fn list(
        &self,
        account: AccountId,
        filter: &JobFilter,
        size: u32,
        token: &str,
    ) -> Result<Page<PurgeView>, Error> {
        let after: Option<PurgeId> = page::cursor(LISTING, token)?;
        let mut db = self.pool.acquire().await?;
        let found = jobs::list(&mut db, account, filter, after, i64::from(size) + 1).await?;
        let page = Page::cut(LISTING, found, size, |job| job.purge_id);
        let ids: Vec<PurgeId> = page.items.iter().map(|job| job.purge_id).collect();
        let receipts = receipts::of_purges(&mut db, &ids).await?;
        Ok(page.map(|job| {
            let receipt = receipts.iter().find(|receipt| receipt.body.purge_id == job.purge_id).cloned();
            self.with(job, receipt)
        }))
    }

    /// Cancels a job: a worker thaws the subject at every custodian, and the job ends as thawed. Repeating
    /// the request changes nothing.
    ///
    /// # Errors
    /// [`Error::ErasureStarted`] past the point of no return.
    pub async fn cancel(
        &self,
        account: AccountId,
        purge_id: PurgeId,
        once: &Once,
    ) -> Result<PurgeView, Error> {
        let (mut tx, slot) = match once.open(&self.pool, Some(account)).await? {
            Opened::Replay(made) => return self.get(Some(account), made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        let done = async {
            let job = self.cancel_in(&mut tx, account, purge_id).await?;
            let slot = match job.subject.and_then(|subject| subject.session()) {
                Some(session) => slot.of_session(session),
                None => slot,
            };
            slot.finish(&mut tx, &purge_id).await?;
            Ok::<_, Error>(job)
        }
        .await;
        let job = tx.end(done).await?;
        self.wake.publish(TOPIC, b"").await;
        self.show(job).await
    }

    async fn cancel_in(&self, tx: &mut Tx, account: AccountId, purge_id: PurgeId) -> Result<Job, Error> {
        let job = jobs::lock(tx, Some(account), purge_id).await?;
        let mut job = job.ok_or(Error::NotFound(Entity::Purge))?;
        match job.record.state {
            State::Committed => return Err(Error::ErasureStarted),
            State::Thawed => return Ok(job),
            State::Working(_) | State::Blocked(_) | State::DeadLettered if job.record.canceling => {
                return Ok(job);
            }
            State::Working(_) | State::Blocked(_) | State::DeadLettered => {}
        }
        let moved = job::next(&job.record, Input::Canceled, self.clock.now())?.record;
        jobs::save(tx, purge_id, &job.record, &moved, None, None).await?;
        job.record = moved;
        job.waits_for = None;
        Ok(job)
    }

    async fn show(&self, job: Job) -> Result<PurgeView, Error> {
        let receipt = match job.record.state {
            State::Committed => {
                let mut db = self.pool.acquire().await?;
                receipts::of_purges(&mut db, &[job.purge_id]).await?.pop()
            }
            State::Working(_) | State::Blocked(_) | State::DeadLettered | State::Thawed => None,
        };
        Ok(self.with(job, receipt))
    }

    fn with(&self, job: Job, receipt: Option<Receipt>) -> PurgeView {
        let enabled = self.enabled.contains(&job.trigger);
        PurgeView { job, receipt, enabled }
    }
}
