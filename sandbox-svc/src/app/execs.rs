//! Runs keyed calls (commands and file writes) in sandboxes: commits the intent to the journal, calls the
//! guest, then commits the outcome. The guest runs the call of a key at most once.
//!
//! Between intent and outcome this service does not know whether the call ran. A retry therefore sends the
//! call to the guest again under the same key, and the guest runs it only if it has not run yet.
//! [`Execs::resolve`] makes the guest abandon a key that it never received. When the container is confirmed
//! absent, calls that are still `running` become `in_doubt`.
//!
//! Each call runs in its own task, so it continues if the caller disconnects.

use std::time::Duration;

use svc_core::{
    data::{idempotency, pg::Tx},
    id::{AccountId, SandboxId},
    run::failpoint,
};
use tracing::Instrument;

use super::{Deps, subject};
use crate::{
    client::guest::{self, Keyed, Refusal},
    domain::{
        exec::{Call, CallId, ExecState, Key, Record, ResolveOptions},
        sandbox::{Cause, Owner, Sandbox, State},
        time::after,
    },
    error::{Error, Result},
    store::{execs, sandboxes as rows},
};

/// Maximum time for which running calls may continue after the process was asked to stop. If a call ends
/// later, its outcome stays with the guest, and another replica reads it there.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Keyed calls; cheap to clone.
#[derive(Debug, Clone)]
pub struct Execs {
    pub deps: Deps,
}

impl Execs {
    /// Makes a call and waits for its end. If the same call was made before under this key, waits for the end
    /// of that one.
    ///
    /// # Errors
    /// [`Error::KeyReused`] if the key was used for another call; [`Error::NotRunning`] if the sandbox does
    /// not run; [`Error::Guest`] if the guest refused, or if its answer was lost and the outcome is unknown.
    pub async fn call(&self, account: AccountId, id: SandboxId, key: Key, call: Call) -> Result<Record> {
        let sandbox = self.deps.find(account, id).await?;
        let owner = sandbox.owner.ok_or(Error::NotFound)?;
        // Checks before the intent that this process serves the engine, so that a call that it cannot send is
        // not journaled.
        self.deps.engine.of(&sandbox)?;
        let keyed = KeyedCall { deps: self.deps.clone(), owner, sandbox, key };
        let first = match keyed.record_intent(&call.hash()).await? {
            Intent::Settled(record) => return Ok(record),
            Intent::Open { first } => first,
        };
        failpoint::hit("sandbox.exec.intended").await;
        let (soft, hard) = (self.deps.lifecycle.soft(), self.deps.lifecycle.hard());
        let stopped = async move {
            soft.cancelled().await;
            let _forced = tokio::time::timeout(HAND_OVER, hard.cancelled()).await;
        };
        let work = async move {
            let settled = tokio::select! {
                settled = keyed.send(call) => settled,
                () = stopped => Err(Error::Stopping),
            };
            if first && matches!(&settled, Err(Error::Guest(error)) if is_lasting_refusal(error)) {
                keyed.withdraw_intent().await?;
            }
            settled
        };
        let sent = self.deps.lifecycle.spawn("exec", work.in_current_span());
        sent.await.ok().flatten().unwrap_or(Err(Error::Stopping))
    }

    /// Returns the record of a key, after a cancel or a wait as `options` say. A key becomes abandoned if no
    /// call used it, or if its call did not arrive at the guest.
    ///
    /// # Errors
    /// [`Error::Guest`] if the guest that runs the call does not answer.
    pub async fn resolve(
        &self,
        account: AccountId,
        id: SandboxId,
        key: Key,
        options: ResolveOptions,
    ) -> Result<Record> {
        let sandbox = self.deps.find(account, id).await?;
        let owner = sandbox.owner.ok_or(Error::NotFound)?;
        let keyed = KeyedCall { deps: self.deps.clone(), owner, sandbox, key };
        let mut tx = keyed.tx().await?;
        execs::insert(&mut tx, keyed.id(), None, self.deps.now()).await?;
        let record = execs::find(&mut tx, keyed.id()).await?.ok_or(Error::NotFound)?.record;
        // Locks the row. The remover writes the final state and marks calls as in doubt under the same lock,
        // so if the state is `Running` here, the remover has not marked this call.
        let state = rows::lock(&mut tx, Some(account), id).await?.ok_or(Error::NotFound)?.state;
        tx.commit().await?;
        if record.state != ExecState::Running {
            return Ok(record);
        }
        if state != State::Running {
            // The call is in doubt only once the container's absence is confirmed.
            return keyed.await_absence(options.wait).await;
        }
        let soft = self.deps.lifecycle.soft();
        tokio::select! {
            answer = keyed.ask(options) => answer,
            () = soft.cancelled() => Err(Error::Stopping),
        }
    }
}

/// Returns whether the guest will refuse the call again. After a `Busy` refusal a repetition may succeed.
fn is_lasting_refusal(error: &guest::Error) -> bool {
    matches!(error, guest::Error::Refused { why, .. } if *why != Refusal::Busy)
}

/// The journal's answer before a call is sent.
enum Intent {
    /// The key has a final state, so the call is not sent. The value is the key's record.
    Settled(Record),
    /// The call must be sent.
    Open {
        /// Whether no request has sent the call before.
        first: bool,
    },
}

/// One keyed call to one sandbox.
struct KeyedCall {
    deps: Deps,
    owner: Owner,
    sandbox: Sandbox,
    key: Key,
}

impl KeyedCall {
    fn id(&self) -> CallId<'_> {
        CallId { owner: self.owner, sandbox: self.sandbox.id, key: self.key.as_str() }
    }

    /// Journals the intent, or returns the record of a key that has a final state.
    async fn record_intent(&self, hash: &[u8; 32]) -> Result<Intent> {
        let now = self.deps.now();
        let mut tx = self.tx().await?;
        // `touch` locks the row, so that a sandbox with a committed removal gets no new call.
        let lifetimes = &self.deps.settings.lifetimes;
        let until = after(now, lifetimes.idle);
        let runs = rows::touch(&mut tx, self.owner, self.sandbox.id, now, until, lifetimes.max).await?;
        let first = runs && execs::insert(&mut tx, self.id(), Some(hash), now).await?;
        let known = match first {
            true => None,
            false => execs::find(&mut tx, self.id()).await?,
        };
        match known {
            None if first => {}
            Some(entry) if entry.hash.is_some_and(|known| known != *hash) => return Err(self.key_reused()),
            Some(entry) if entry.record.state != ExecState::Running => {
                return Ok(Intent::Settled(entry.record));
            }
            Some(_) if runs => {}
            Some(_) | None => {
                let sandbox = rows::find(&mut tx, Some(self.owner.account), self.sandbox.id).await?;
                return Err(Error::NotRunning(sandbox.ok_or(Error::NotFound)?.state));
            }
        }
        tx.commit().await?;
        Ok(Intent::Open { first })
    }

    /// Returns the error for a key that was used for another call. It names the `idempotency-key` header if
    /// the key was derived from it.
    fn key_reused(&self) -> Error {
        match self.key.is_of_request() {
            true => idempotency::Error::Reused.into(),
            false => Error::KeyReused,
        }
    }

    /// Deletes the intent of a call that the guest refused. The guest refuses before it records a key, so the
    /// key may be used for another call. Only the request that wrote the intent does this, and not after a
    /// `Busy` refusal.
    async fn withdraw_intent(&self) -> Result<()> {
        let mut tx = self.tx().await?;
        execs::withdraw(&mut tx, self.id()).await?;
        Ok(tx.commit().await?)
    }

    async fn send(&self, call: Call) -> Result<Record> {
        let guest = self.deps.engine.guest(&self.sandbox).await?;
        failpoint::hit("sandbox.exec.sending").await;
        let answer = match call {
            Call::Command(command) => guest.exec(self.keyed(), command).await,
            Call::Write(write) => guest.write_file(self.keyed(), write).await,
        };
        failpoint::hit("sandbox.exec.answered").await;
        self.settle(answer).await
    }

    async fn ask(&self, options: ResolveOptions) -> Result<Record> {
        let guest = self.deps.engine.guest(&self.sandbox).await?;
        let answer = guest.resolve(self.keyed(), options).await;
        self.settle(answer).await
    }

    fn keyed(&self) -> Keyed<'_> {
        let instance = self.sandbox.container.as_ref().and_then(|container| container.instance.as_deref());
        Keyed { key: self.key.as_str(), instance: instance.unwrap_or_default() }
    }

    /// Journals the guest's answer about the key, if the answer is final, and returns the record that the
    /// journal then has. Returns the record of a call that still runs without journaling it.
    async fn settle(&self, answer: Result<Record, guest::Error>) -> Result<Record> {
        let record = match answer {
            Ok(record) => record,
            Err(error @ guest::Error::Refused { .. }) => return Err(error.into()),
            Err(error) => {
                self.deps.engine.of(&self.sandbox)?.forget_guest(self.sandbox.id).await;
                if matches!(error, guest::Error::OtherInstance) {
                    self.end_restarted().await?;
                }
                return Err(error.into());
            }
        };
        let now = self.deps.now();
        let mut tx = match record.state {
            ExecState::Running | ExecState::InDoubt => return Ok(record),
            ExecState::Finished | ExecState::Abandoned => self.tx().await?,
        };
        execs::settle(&mut tx, self.id(), record.outcome.as_ref(), now).await?;
        // Reads the journal again, because another request may have settled the key before.
        let settled = execs::find(&mut tx, self.id()).await?.ok_or(Error::NotFound)?;
        tx.commit().await?;
        Ok(settled.record)
    }

    /// Commits a sandbox to removal after its guest restarted. The guest's records are lost, so a repeated
    /// call could run twice. The session's next sandbox gets its workspace.
    async fn end_restarted(&self) -> Result<()> {
        let unchanged = |now: &Sandbox| {
            let same = now.container == self.sandbox.container;
            (now.state == State::Running && same).then_some(Cause::GuestRestarted)
        };
        self.deps.end(self.tx().await?, self.sandbox.id, unchanged).await.map(drop)
    }

    /// Waits at most `wait` until the removal of the sandbox gives the key a final state, and returns the
    /// record.
    async fn await_absence(&self, wait: Duration) -> Result<Record> {
        let read = || async {
            let mut db = self.deps.pool.acquire().await?;
            Ok(execs::find(&mut db, self.id()).await?.ok_or(Error::NotFound)?.record)
        };
        self.deps.read_until(self.sandbox.id, wait, read, |record| record.state != ExecState::Running).await
    }

    async fn tx(&self) -> Result<Tx> {
        Ok(Tx::for_subject(&self.deps.pool, subject(self.owner)).await?)
    }
}
