//! Accepting, showing and calling back jobs, for the account they belong to.

use std::sync::Arc;

use svc_core::{
    data::{
        idempotency::{Once, Opened},
        pg::{Pool, Tx},
        wake::Wake,
    },
    id::{AccountId, PurgeId, SessionId},
    run::clock::SharedClock,
    wire::page::{self, Page},
};

use crate::{
    client::Sessions,
    domain::{
        job::{self, Input, Job, Record, State},
        receipt::Receipt,
        subject::{Subject, Trigger},
    },
    error::{Entity, Error},
    store::{
        jobs::{self, NewJob},
        receipts,
    },
};

/// On this topic workers hear that there is something to do.
pub const TOPIC: &str = "purge.jobs";

const LISTING: &str = "purge.jobs";

/// Jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs {
    pool: Pool,
    sessions: Sessions,
    wake: Wake,
    clock: SharedClock,
    enabled: Arc<[Trigger]>,
}

/// What a caller sees of a job.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The job.
    pub job: Job,
    /// Its receipt, once committed.
    pub receipt: Option<Receipt>,
    /// Whether jobs of its trigger are worked on at all.
    pub enabled: bool,
}

/// A caller's wish to have a session erased.
#[derive(Debug, Clone)]
pub struct Demand {
    /// Whose session it is.
    pub account: AccountId,
    /// The session.
    pub session: SessionId,
    /// The principal that asks.
    pub principal_id: String,
    /// Trace of the request.
    pub traceparent: Option<String>,
    /// What makes it the same request when it comes again.
    pub once: Once,
}

impl Jobs {
    /// Jobs in `pool`; of these triggers the `enabled` ones are worked on.
    #[must_use]
    pub fn new(
        pool: Pool,
        sessions: Sessions,
        wake: Wake,
        clock: SharedClock,
        enabled: Arc<[Trigger]>,
    ) -> Self {
        Self { pool, sessions, wake, clock, enabled }
    }

    /// Accepts the erasure of a session: from then on it happens, whoever dies. Asked again, it is the same job,
    /// also when the session is gone already.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account has no such session.
    pub async fn accept(&self, demand: &Demand) -> Result<Shown, Error> {
        let subject = Subject::Session { account: demand.account, session: demand.session };
        if let Some(known) = self.known(demand, &subject).await? {
            return Ok(known);
        }
        // With no transaction open: chat-svc may take its time.
        if !self.sessions.exists(demand.account, demand.session).await? {
            return Err(Error::NotFound(Entity::Session));
        }
        let now = self.clock.now();
        let purge_id = PurgeId::new();
        let new = NewJob {
            purge_id,
            subject,
            trigger: Trigger::UserErasure,
            requested_by: &demand.principal_id,
            record: Record::accepted(now),
            cause_traceparent: demand.traceparent.as_deref(),
            created_at: now,
        };
        let (mut tx, slot) = match demand.once.open(&self.pool, Some(demand.account)).await? {
            Opened::Replay(made) => return self.get(Some(demand.account), made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        jobs::insert(&mut tx, &new).await?;
        // Ours, or that of somebody who was faster.
        let job = jobs::find_by_subject(&mut tx, demand.account, subject.hash()).await?;
        let job = job.ok_or(Error::NotFound(Entity::Session))?;
        slot.of_session(demand.session).finish(&mut tx, &job.purge_id).await?;
        tx.commit().await?;
        self.wake.publish(TOPIC, b"").await;
        self.show(job).await
    }

    /// What answers a demand without asking anybody, if there is something.
    async fn known(&self, demand: &Demand, subject: &Subject) -> Result<Option<Shown>, Error> {
        let (mut tx, slot) = match demand.once.open(&self.pool, Some(demand.account)).await? {
            Opened::Replay(made) => return self.get(Some(demand.account), made).await.map(Some),
            Opened::First(tx, slot) => (tx, slot),
        };
        let Some(job) = jobs::find_by_subject(&mut tx, demand.account, subject.hash()).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        slot.of_session(demand.session).finish(&mut tx, &job.purge_id).await?;
        tx.commit().await?;
        self.show(job).await.map(Some)
    }

    /// A job of this account; of any, for operators, if none is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub async fn get(&self, account: Option<AccountId>, purge_id: PurgeId) -> Result<Shown, Error> {
        let job = {
            let mut db = self.pool.acquire().await?;
            jobs::find(&mut db, account, purge_id).await?
        };
        self.show(job.ok_or(Error::NotFound(Entity::Purge))?).await
    }

    /// One page of an account's jobs, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the token is none of this listing.
    pub async fn list(&self, account: AccountId, size: u32, token: &str) -> Result<Page<Shown>, Error> {
        let after: Option<PurgeId> = page::cursor(LISTING, token)?;
        let mut db = self.pool.acquire().await?;
        let found = jobs::list(&mut db, account, after, i64::from(size) + 1).await?;
        let page = Page::cut(LISTING, found, size, |job| job.purge_id);
        let ids: Vec<PurgeId> = page.items.iter().map(|job| job.purge_id).collect();
        let receipts = receipts::of_purges(&mut db, &ids).await?;
        Ok(page.map(|job| {
            let receipt = receipts.iter().find(|receipt| receipt.body.purge_id == job.purge_id).cloned();
            self.with(job, receipt)
        }))
    }

    /// Calls a job back: it thaws as soon as every owner of data has let go. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`Error::ErasureStarted`] past the point of no return.
    pub async fn cancel(&self, account: AccountId, purge_id: PurgeId) -> Result<Shown, Error> {
        let mut tx = Tx::system(&self.pool).await?;
        let job = jobs::lock(&mut tx, Some(account), purge_id).await?;
        let mut job = job.ok_or(Error::NotFound(Entity::Purge))?;
        match job.record.state {
            State::Committed => return Err(Error::ErasureStarted),
            State::Thawed => return self.show(job).await,
            State::Working(_) | State::Blocked(_) | State::DeadLettered if job.record.giving_up => {
                return self.show(job).await;
            }
            State::Working(_) | State::Blocked(_) | State::DeadLettered => {}
        }
        let moved = job::next(&job.record, Input::GivenUp, self.clock.now())?.record;
        jobs::save(&mut tx, purge_id, &job.record, &moved, None, None).await?;
        tx.commit().await?;
        job.record = moved;
        job.waits_for = None;
        self.wake.publish(TOPIC, b"").await;
        self.show(job).await
    }

    async fn show(&self, job: Job) -> Result<Shown, Error> {
        let receipt = match job.record.state {
            State::Committed => {
                let mut db = self.pool.acquire().await?;
                receipts::of_purges(&mut db, &[job.purge_id]).await?.pop()
            }
            State::Working(_) | State::Blocked(_) | State::DeadLettered | State::Thawed => None,
        };
        Ok(self.with(job, receipt))
    }

    fn with(&self, job: Job, receipt: Option<Receipt>) -> Shown {
        let enabled = self.enabled.contains(&job.trigger);
        Shown { job, receipt, enabled }
    }
}
