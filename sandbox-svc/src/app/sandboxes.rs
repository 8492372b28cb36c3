//! Requests, reads, lists and deletes the sandboxes of an account.

use std::time::Duration;

use svc_core::{
    data::{
        idempotency::{Begin, Once},
        pg::{self, Tx},
    },
    id::{AccountId, SandboxId, SessionId},
    run::telemetry,
    wire::page::{self, Page},
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Deps, subject};
use crate::{
    domain::{
        VolumeId,
        sandbox::{Cause, Filter, Owner, Sandbox, State},
        time::after,
    },
    error::{Error, Result},
    store::{
        pool::{self, Wanted},
        queue::{self, Unattended},
        sandboxes::{self as rows, ONE_LIVE_A_SESSION},
        volumes::{self, ONE_VOLUME_A_SESSION},
    },
};

const LISTING: &str = "sandbox.sandboxes";
/// Time between two reads of a row that a caller waits for, because a wake-up can be lost.
const POLL: Duration = Duration::from_secs(1);
/// Maximum attempts of one request. An attempt fails only if another request of the session succeeds at the
/// same time, so few are needed.
const MAX_ATTEMPTS: u32 = 5;
/// Minimum time before its retirement at which a pooled sandbox can still be claimed, so that it is not
/// retired during the claim.
const MIN_LIFE: Duration = Duration::from_secs(5);

/// A sandbox with its position in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub sandbox: Sandbox,
    /// Number of queued sandboxes that are created before this one; 0 if this one is not queued.
    pub position: i64,
}

/// The sandboxes of accounts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    pub deps: Deps,
}

impl Sandboxes {
    /// Returns the session's live sandbox, claims one from the pool, or requests one. A repetition of the
    /// request returns the sandbox that the first request returned.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`] if the session belongs to another account; [`Error::Idempotency`] if the
    /// key was used for another request; [`Error::NotFound`] if a repetition finds its sandbox erased.
    pub async fn create(&self, account: AccountId, session: SessionId, once: &Once) -> Result<View> {
        let owner = Owner { account, session };
        let mut attempts = 0;
        let sandbox = loop {
            attempts += 1;
            match self.find_or_request(owner, once).await {
                // Another request gave the session a sandbox after this one had looked for it.
                Err(Error::Pg(error))
                    if (error.violates(ONE_LIVE_A_SESSION) || error.violates(ONE_VOLUME_A_SESSION))
                        && attempts < MAX_ATTEMPTS => {}
                created => break created?,
            }
        };
        self.view(sandbox).await
    }

    async fn find_or_request(&self, owner: Owner, once: &Once) -> Result<Sandbox> {
        self.deps.engine.get()?;
        let begun = Tx::for_subject_or_new(&self.deps.pool, subject(owner)).await;
        let mut tx = begun.map_err(|error| match error {
            pg::Error::SubjectNotFound { .. } => Error::SessionNotFound,
            other => other.into(),
        })?;
        let outcome = self.find_or_write(&mut tx, owner, once).await;
        let (sandbox, new) = tx.end(outcome).await?;
        if new {
            self.deps.notices.work_for(&sandbox.engine).await;
        }
        Ok(sandbox)
    }

    /// Returns the sandbox, and whether it was claimed or requested in `tx`.
    async fn find_or_write(&self, tx: &mut Tx, owner: Owner, once: &Once) -> Result<(Sandbox, bool)> {
        let slot = match once.begin::<SandboxId>(tx, Some(owner.account)).await? {
            Begin::First(slot) => slot.of_session(owner.session),
            Begin::Replay(id) => return Ok((find(tx, owner.account, id).await?, false)),
        };
        let found = match rows::find_live(tx, owner.session).await? {
            Some(live) if live.owner == Some(owner) => (live, false),
            Some(_) => return Err(Error::SessionNotFound),
            None => (self.claim_or_request(tx, owner).await?, true),
        };
        slot.finish(tx, &found.0.id).await?;
        Ok(found)
    }

    async fn claim_or_request(&self, tx: &mut Tx, owner: Owner) -> Result<Sandbox> {
        let Deps { settings, engine, .. } = &self.deps;
        let here = &engine.get()?.info.id;
        let now = self.deps.now();
        let (volume, engine) = match volumes::keep_of_session(tx, owner).await? {
            // The sandbox must be created on the engine that has the session's workspace.
            Some(kept) => kept,
            None => {
                let wanted =
                    Wanted { engine: here, shape: &settings.shape, lives_until: after(now, MIN_LIFE) };
                let deadline = after(now, settings.lifetimes.idle);
                if let Some((id, volume)) = pool::claim(tx, wanted, owner, now, deadline).await? {
                    volumes::assign(tx, volume, owner).await?;
                    return find(tx, owner.account, id).await;
                }
                let volume = VolumeId::new();
                volumes::insert(tx, volume, here, Some(owner), now).await?;
                (volume, here.clone())
            }
        };
        let sandbox = Sandbox { owner: Some(owner), ..self.deps.requested(engine, volume) };
        let traceparent = telemetry::traceparent(&tracing::Span::current());
        rows::insert(tx, &sandbox, traceparent.as_deref()).await?;
        Ok(sandbox)
    }

    /// Returns an account's sandbox once it is neither requested nor creating, or after `wait`, or when this
    /// process stops.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account has no such sandbox.
    pub async fn get(&self, account: AccountId, id: SandboxId, wait: Duration) -> Result<View> {
        let read = || self.deps.find(account, id);
        let sandbox = self.deps.read_until(id, wait, read, |sandbox| !sandbox.state.is_pending()).await?;
        self.view(sandbox).await
    }

    async fn view(&self, sandbox: Sandbox) -> Result<View> {
        let position = match sandbox.state {
            State::Requested => {
                let mut db = self.deps.pool.acquire().await?;
                queue::position(&mut db, &sandbox).await?
            }
            State::Creating | State::Running | State::Deleting | State::Gone | State::Failed => 0,
        };
        Ok(View { sandbox, position })
    }

    /// Returns a page of an account's sandboxes, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the page token is malformed.
    pub async fn list(
        &self,
        account: AccountId,
        filter: Filter,
        size: u32,
        token: &str,
    ) -> Result<Page<Sandbox>> {
        let after = page::cursor::<Uuid>(LISTING, token)?;
        let mut db = self.deps.pool.acquire().await?;
        let rows = rows::list(&mut db, account, filter, after, i64::from(size) + 1).await?;
        Ok(Page::cut(LISTING, rows, size, |last| last.id.0))
    }

    /// Commits an account's sandbox to its removal.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account has no such sandbox; [`Error::Idempotency`] if the key was used for
    /// another request.
    pub async fn delete(&self, account: AccountId, id: SandboxId, by: &str, once: &Once) -> Result<Sandbox> {
        let owner = self.deps.find(account, id).await?.owner.ok_or(Error::NotFound)?;
        let mut tx = Tx::for_subject(&self.deps.pool, subject(owner)).await?;
        let outcome: Result<_> = async {
            let slot = match once.begin::<SandboxId>(&mut tx, Some(account)).await? {
                Begin::First(slot) => slot.of_session(owner.session),
                Begin::Replay(id) => return Ok((find(&mut tx, account, id).await?, false)),
            };
            let sandbox = rows::lock(&mut tx, Some(account), id).await?.ok_or(Error::NotFound)?;
            let deleted = self.deps.commit_removal(&mut tx, &sandbox, Cause::Deleted, by).await?;
            slot.finish(&mut tx, &id).await?;
            let new = deleted.is_some();
            Ok((deleted.unwrap_or(sandbox), new))
        }
        .await;
        let (sandbox, new) = tx.end(outcome).await?;
        if new {
            self.deps.notices.removal_committed(&sandbox).await;
        }
        Ok(sandbox)
    }
}

async fn find(tx: &mut Tx, account: AccountId, id: SandboxId) -> Result<Sandbox> {
    rows::find(tx, Some(account), id).await?.ok_or(Error::NotFound)
}

impl Deps {
    /// Returns an account's sandbox.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account has no such sandbox.
    pub async fn find(&self, account: AccountId, id: SandboxId) -> Result<Sandbox> {
        let mut db = self.pool.acquire().await?;
        rows::find(&mut db, Some(account), id).await?.ok_or(Error::NotFound)
    }

    /// Calls `read` again at every change of the sandbox `id`, until `settled` accepts the result, `wait` is
    /// over or this process stops. Returns the last result.
    ///
    /// # Errors
    /// The error of `read`.
    pub async fn read_until<T, F>(
        &self,
        id: SandboxId,
        wait: Duration,
        read: impl Fn() -> F,
        settled: fn(&T) -> bool,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let soft = self.lifecycle.soft();
        let until = Instant::now() + wait;
        let mut changes = match wait.is_zero() {
            true => None,
            false => Some(self.notices.of_sandbox(id).await),
        };
        loop {
            let found = read().await?;
            let waits = !settled(&found) && Instant::now() < until && !soft.is_cancelled();
            let changes = match &mut changes {
                Some(changes) if waits => changes,
                Some(_) | None => return Ok(found),
            };
            tokio::select! {
                _hint = timeout_at(until, changes.next(POLL)) => {}
                () = soft.cancelled() => {}
            }
        }
    }

    /// Lists at most `limit` sandboxes of the served engine in `state` without a lease. With `expired`, it
    /// also lists those with an expired lease.
    ///
    /// # Errors
    /// An error of Postgres, or [`Error::EngineUnknown`].
    pub async fn list_unattended(&self, state: State, expired: bool, limit: i64) -> Result<Vec<Unattended>> {
        let engine = &self.engine.get()?.info.id;
        let mut db = self.pool.acquire().await?;
        Ok(queue::unattended(&mut db, engine, state, expired, limit).await?)
    }

    /// Builds a new requested sandbox without owner, which is to mount the workspace `volume`.
    pub fn requested(&self, engine: String, volume: VolumeId) -> Sandbox {
        let now = self.now();
        Sandbox {
            id: SandboxId::new(),
            owner: None,
            engine,
            state: State::Requested,
            generation: 1,
            epoch: 0,
            warm: false,
            slot: None,
            retire_at: None,
            shape: self.settings.shape.clone(),
            volume,
            container: None,
            cause: None,
            created_at: now,
            running_at: None,
            last_active_at: now,
            deadline_at: after(now, self.settings.create.queue_deadline),
            ended_at: None,
        }
    }
}
