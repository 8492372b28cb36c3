//! Keyed calls: intent in the journal, then the guest, then the outcome in the journal.
//!
//! A key runs at most once. Between intent and outcome nobody here knows, so nothing is guessed: a repeated call
//! goes to the guest under the same key, which runs it only if it never did, and [`resolve`] has the guest write
//! the key off if it never arrived. A row that is `running` while its sandbox goes is `in_doubt` for ever.
//!
//! The call goes on on a task of its own: a caller that leaves stops its wait, not the call.

use std::{sync::Arc, time::Duration};

use steward_proto::guest::v1::{self as wire, RecordState};
use svc_core::{
    data::pg::Tx,
    id::{AccountId, SandboxId},
    run::failpoint,
};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::{
    Context, Shared,
    lifecycle::{POLL, end, find},
    making::WORKER,
    sandbox_topic, subject,
};
use crate::{
    client::guest::{self, Refusal},
    domain::{
        exec::{CONTENT_BYTES, Call, ExecState, Key, Outcome, Record},
        sandbox::{Cause, Container, Owner, Sandbox, State, after},
    },
    error::{Error, Result},
    store::{execs, sandboxes},
};

/// What the guest may keep of a stream: the journal's bound.
const STREAM_BYTES: u32 = CONTENT_BYTES as u32;

/// How long a call that is in hand may still end here once the process is asked to stop. After that its guest goes on
/// with it, and whoever asks another replica what became of its key is told.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Makes a call and waits for its end, or for the end of the same call made before.
///
/// # Errors
/// [`Error::KeyReused`] if the key means another call; [`Error::Guest`] if nobody knows yet what became of it.
pub async fn call(ctx: &Shared, account: AccountId, id: SandboxId, key: Key, call: Call) -> Result<Record> {
    let sandbox = find(ctx, account, id).await?;
    let owner = sandbox.owner.ok_or(Error::NotFound)?;
    // Before anything is journaled: a call that cannot be sent from here leaves no trace here.
    ctx.served_for(&sandbox)?;
    let first = match intend(ctx, owner, &sandbox, &key, &call.hash()).await? {
        Intent::Settled(record) => return Ok(record),
        Intent::Noted { first } => first,
    };
    failpoint::hit("sandbox.exec.intended").await;
    let (ctx, lifecycle) = (Arc::clone(ctx), ctx.lifecycle.clone());
    let (soft, hard) = (lifecycle.soft(), lifecycle.hard());
    let stopped = async move {
        soft.cancelled().await;
        let _forced = tokio::time::timeout(HAND_OVER, hard.cancelled()).await;
    };
    let work = async move {
        let settled = tokio::select! {
            settled = send(&ctx, owner, &sandbox, &key, call) => settled,
            () = stopped => Err(Error::Stopping),
        };
        if first
            && matches!(&settled, Err(Error::Guest(guest::Error::Refused { why, .. })) if *why != Refusal::Busy)
        {
            forget(&ctx, owner, &sandbox, &key).await?;
        }
        settled
    };
    let sent = lifecycle.spawn("exec", work.in_current_span());
    sent.await.ok().flatten().unwrap_or(Err(Error::Stopping))
}

/// What the journal says before a call is sent.
enum Intent {
    /// It is over.
    Settled(Record),
    /// It is to be sent.
    Noted {
        /// Whether nobody sent it before.
        first: bool,
    },
}

/// Journals the intent; answers the record of a key that is settled already.
async fn intend(
    ctx: &Context,
    owner: Owner,
    sandbox: &Sandbox,
    key: &Key,
    hash: &[u8; 32],
) -> Result<Intent> {
    let now = ctx.now();
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    // Holds the row: a sandbox that is being removed gets no new calls.
    let lifetimes = &ctx.settings.lifetimes;
    let until = after(now, lifetimes.idle);
    let runs = sandboxes::touch(&mut tx, owner, sandbox.id, now, until, lifetimes.most).await?;
    let new = runs && execs::begin(&mut tx, owner, sandbox.id, key.as_str(), hash, now).await?;
    let known = match new {
        true => None,
        false => execs::find(&mut tx, owner, sandbox.id, key.as_str()).await?,
    };
    let state = sandbox_state(&mut tx, runs, owner, sandbox).await?;
    match known {
        None if new => {}
        // It does not run, and never met this key.
        None => return Err(Error::NotRunning(state)),
        Some(entry) => {
            if entry.hash.is_some_and(|known| known != *hash) {
                return Err(Error::KeyReused);
            }
            match entry.record.state {
                ExecState::Finished | ExecState::Abandoned | ExecState::InDoubt => {
                    return Ok(Intent::Settled(entry.record));
                }
                ExecState::Running if !runs => return Err(Error::NotRunning(state)),
                ExecState::Running => {}
            }
        }
    }
    tx.commit().await?;
    Ok(Intent::Noted { first: new })
}

/// Takes back the intent of a call that the guest refused: it does so before it records anything, so the key was not
/// used. Only the call that wrote the intent does, and not where the next one might be let in.
async fn forget(ctx: &Context, owner: Owner, sandbox: &Sandbox, key: &Key) -> Result<()> {
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    execs::forget(&mut tx, owner, sandbox.id, key.as_str()).await?;
    Ok(tx.commit().await?)
}

async fn sandbox_state(tx: &mut Tx, runs: bool, owner: Owner, sandbox: &Sandbox) -> Result<State> {
    if runs {
        return Ok(State::Running);
    }
    let now = sandboxes::find(tx, Some(owner.account), sandbox.id).await?;
    Ok(now.ok_or(Error::NotFound)?.state)
}

/// Sends the call to the guest and journals what it answers.
async fn send(ctx: &Context, owner: Owner, sandbox: &Sandbox, key: &Key, call: Call) -> Result<Record> {
    let (container, guest) = reach(ctx, sandbox).await?;
    let instance = container.instance.clone().unwrap_or_default();
    failpoint::hit("sandbox.exec.sending").await;
    let answer = match call {
        Call::Command(command) => {
            let request = wire::ExecRequest {
                key: key.as_str().to_owned(),
                argv: command.argv,
                stdin: command.stdin,
                cwd: command.cwd,
                env: command.env.into_iter().collect(),
                timeout: command.timeout.try_into().ok(),
                output_limit_bytes: STREAM_BYTES,
                instance,
            };
            guest.exec(request, command.timeout).await
        }
        Call::Write(write) => {
            let request = wire::WriteFileRequest {
                key: key.as_str().to_owned(),
                path: write.path,
                content: write.content,
                mode: write.mode,
                instance,
            };
            guest.write_file(request).await
        }
    };
    failpoint::hit("sandbox.exec.answered").await;
    settle(ctx, owner, sandbox, key, answer).await
}

/// What is asked about a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question {
    /// For how long the end of a running call is waited for.
    pub wait: Duration,
    /// Whether a running command is killed.
    pub cancel: bool,
}

/// Says what became of a key; one that nobody used, or that never arrived, is written off.
///
/// # Errors
/// [`Error::Guest`] if nobody can say now.
pub async fn resolve(
    ctx: &Shared,
    account: AccountId,
    id: SandboxId,
    key: Key,
    question: Question,
) -> Result<Record> {
    let sandbox = find(ctx, account, id).await?;
    let owner = sandbox.owner.ok_or(Error::NotFound)?;
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    let known = match execs::write_off(&mut tx, owner, id, key.as_str(), ctx.now()).await? {
        true => None,
        false => execs::find(&mut tx, owner, id, key.as_str()).await?,
    };
    // Under the same lock as the rows of a sandbox that goes: either it doubts this call, or it still runs.
    let state = sandboxes::lock(&mut tx, Some(account), id).await?.ok_or(Error::NotFound)?.state;
    tx.commit().await?;
    match known.map(|entry| entry.record) {
        None => Ok(Record { key: key.as_str().to_owned(), state: ExecState::Abandoned, outcome: None }),
        Some(record) if record.state != ExecState::Running => Ok(record),
        // Its container may be gone or not: known only once its absence is.
        Some(_) if state != State::Running => await_absence(ctx, owner, id, &key, question.wait).await,
        Some(_) => tokio::select! {
            said = ask(ctx, owner, &sandbox, &key, question) => said,
            () = ctx.stopping() => Err(Error::Stopping),
        },
    }
}

/// The record of a call whose sandbox goes: what is settled when its container is known to be gone, or what is known
/// after `wait`.
async fn await_absence(
    ctx: &Context,
    owner: Owner,
    id: SandboxId,
    key: &Key,
    wait: Duration,
) -> Result<Record> {
    let until = Instant::now() + wait;
    // Before the first read, so that no change falls between the two.
    let mut changes = ctx.wake.subscribe(&sandbox_topic(id)).await;
    loop {
        let mut db = ctx.pool.acquire().await?;
        let record = execs::find(&mut db, owner, id, key.as_str()).await?.ok_or(Error::NotFound)?.record;
        drop(db);
        if record.state != ExecState::Running || Instant::now() >= until || ctx.is_stopping() {
            return Ok(record);
        }
        tokio::select! {
            _looked = timeout_at(until, changes.next(POLL)) => {}
            () = ctx.stopping() => {}
        }
    }
}

async fn ask(
    ctx: &Context,
    owner: Owner,
    sandbox: &Sandbox,
    key: &Key,
    question: Question,
) -> Result<Record> {
    let (container, guest) = reach(ctx, sandbox).await?;
    let request = wire::ResolveRequest {
        key: key.as_str().to_owned(),
        wait: None,
        instance: container.instance.clone().unwrap_or_default(),
        cancel: question.cancel,
    };
    let answer = guest.resolve(request, question.wait).await;
    settle(ctx, owner, sandbox, key, answer).await
}

async fn reach<'a>(ctx: &Context, sandbox: &'a Sandbox) -> Result<(&'a Container, guest::Guest)> {
    let container = sandbox.container.as_ref().ok_or(Error::NotRunning(sandbox.state))?;
    let guest = ctx.served_for(sandbox)?.guest(sandbox.id, container).await?;
    Ok((container, guest))
}

/// Journals what the guest says of a key.
async fn settle(
    ctx: &Context,
    owner: Owner,
    sandbox: &Sandbox,
    key: &Key,
    answer: Result<wire::Record, guest::Error>,
) -> Result<Record> {
    let record = match answer {
        Ok(record) => record,
        Err(error @ guest::Error::Refused { .. }) => return Err(error.into()),
        Err(error) => {
            ctx.served_for(sandbox)?.forget_guest(sandbox.id).await;
            if matches!(error, guest::Error::OtherInstance) {
                end_restarted(ctx, owner, sandbox).await?;
            }
            return Err(error.into());
        }
    };
    let now = ctx.now();
    let state = match record.state() {
        // More than it was asked to keep, or nothing that is known: no guest of ours says that.
        RecordState::Finished if record.stdout.len().max(record.stderr.len()) > CONTENT_BYTES => {
            return Err(guest::Error::Nonsense("more output than asked for").into());
        }
        RecordState::Finished => ExecState::Finished,
        RecordState::Abandoned => ExecState::Abandoned,
        RecordState::Running | RecordState::Unspecified => ExecState::Running,
    };
    if state == ExecState::Running {
        return Ok(Record { key: key.as_str().to_owned(), state, outcome: None });
    }
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    if state == ExecState::Finished {
        execs::finish(&mut tx, owner, sandbox.id, key.as_str(), &outcome(record), now).await?;
    } else {
        execs::abandon(&mut tx, owner, sandbox.id, key.as_str(), now).await?;
    }
    // What the journal says is what happened: somebody else may have settled it before.
    let settled = execs::find(&mut tx, owner, sandbox.id, key.as_str()).await?.ok_or(Error::NotFound)?;
    tx.commit().await?;
    Ok(settled.record)
}

/// Commits a sandbox to removal whose guest was started anew: the records that make a key run once are lost, so no
/// call can be made there any more. Its calls end in doubt; the session's next sandbox has its workspace.
async fn end_restarted(ctx: &Context, owner: Owner, sandbox: &Sandbox) -> Result<()> {
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    let Some(now) = sandboxes::lock(&mut tx, Some(owner.account), sandbox.id).await? else { return Ok(()) };
    if now.state != State::Running || now.container != sandbox.container {
        return Ok(());
    }
    end(ctx, &mut tx, &now, Cause::GuestRestarted, WORKER).await?;
    tx.commit().await?;
    ctx.tell(sandbox.id).await;
    ctx.tell_workers(&sandbox.engine).await;
    Ok(())
}

fn outcome(record: wire::Record) -> Outcome {
    Outcome {
        exit_code: record.exit_code,
        stdout: record.stdout.into(),
        stderr: record.stderr.into(),
        stdout_truncated: record.stdout_truncated,
        stderr_truncated: record.stderr_truncated,
        timed_out: record.timed_out,
        duration: record.duration.and_then(|duration| duration.try_into().ok()).unwrap_or_default(),
    }
}
