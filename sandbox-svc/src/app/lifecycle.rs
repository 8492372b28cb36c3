//! Finding sandboxes and ending them.

use std::time::Duration;

use svc_core::{
    data::{
        audit::{self, Act, SubjectHash},
        pg::Tx,
    },
    id::{AccountId, SandboxId, SessionId},
    wire::page::{self, Page},
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Context, sandbox_topic, subject};
use crate::{
    domain::sandbox::{Cause, Input, Sandbox, State, next},
    error::{Error, Result},
    store::{queue, sandboxes},
};

const LISTING: &str = "sandbox.sandboxes";
/// How often a waiting caller reads the row, should every hint be lost.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// A sandbox as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// How many are made before it, while it is requested.
    pub position: i64,
}

/// An account's sandbox.
///
/// # Errors
/// [`Error::NotFound`] if it has no such.
pub async fn find(ctx: &Context, account: AccountId, id: SandboxId) -> Result<Sandbox> {
    let mut db = ctx.pool.acquire().await?;
    sandboxes::find(&mut db, Some(account), id).await?.ok_or(Error::NotFound)
}

/// An account's sandbox, once it is neither requested nor creating, or after `wait`.
///
/// # Errors
/// [`Error::NotFound`] if it has no such.
pub async fn get(ctx: &Context, account: AccountId, id: SandboxId, wait: Duration) -> Result<View> {
    let until = Instant::now() + wait;
    // Before the first read, so that no change falls between the two.
    let mut changes = if wait.is_zero() { None } else { Some(ctx.wake.subscribe(&sandbox_topic(id)).await) };
    loop {
        let sandbox = find(ctx, account, id).await?;
        let changes = match &mut changes {
            Some(changes) if sandbox.state.is_pending() && Instant::now() < until && !ctx.is_stopping() => {
                changes
            }
            Some(_) | None => return view(ctx, sandbox).await,
        };
        // Whatever ends it first, the row is read again.
        tokio::select! {
            _looked = timeout_at(until, changes.next(POLL)) => {}
            () = ctx.stopping() => {}
        }
    }
}

/// Adds a sandbox's place in the queue.
///
/// # Errors
/// [`Error::Pg`].
pub async fn view(ctx: &Context, sandbox: Sandbox) -> Result<View> {
    let position = match sandbox.state {
        State::Requested => {
            let mut db = ctx.pool.acquire().await?;
            queue::position(&mut db, &sandbox).await?
        }
        State::Creating | State::Running | State::Deleting | State::Gone | State::Failed => 0,
    };
    Ok(View { sandbox, position })
}

/// A page of an account's sandboxes, newest first.
///
/// # Errors
/// [`Error::Invalid`] if the token is none.
pub async fn list(
    ctx: &Context,
    account: AccountId,
    session: Option<SessionId>,
    size: u32,
    token: &str,
) -> Result<Page<Sandbox>> {
    let after = page::cursor::<Uuid>(LISTING, token)?;
    let mut db = ctx.pool.acquire().await?;
    let rows = sandboxes::list(&mut db, account, session, after, i64::from(size) + 1).await?;
    Ok(Page::cut(LISTING, rows, size, |last| last.id.0))
}

/// Commits an account's sandbox to its removal.
///
/// # Errors
/// [`Error::NotFound`] if it has no such.
pub async fn delete(ctx: &Context, account: AccountId, id: SandboxId, by: &str) -> Result<Sandbox> {
    let owner = find(ctx, account, id).await?.owner.ok_or(Error::NotFound)?;
    let mut tx = Tx::for_subject(&ctx.pool, subject(owner)).await?;
    let sandbox = sandboxes::lock(&mut tx, Some(account), id).await?.ok_or(Error::NotFound)?;
    let deleted = end(ctx, &mut tx, &sandbox, Cause::Deleted, by).await?;
    tx.commit().await?;
    let Some(deleted) = deleted else { return Ok(sandbox) };
    ctx.tell(id).await;
    ctx.tell_workers(&deleted.engine).await;
    Ok(deleted)
}

/// Commits a sandbox to its removal in `tx`, which holds its row; `None` if it is already. From here on it is
/// irreversible, so this is what the audit log names.
///
/// # Errors
/// [`Error::Pg`].
pub async fn end(
    ctx: &Context,
    tx: &mut Tx,
    sandbox: &Sandbox,
    cause: Cause,
    by: &str,
) -> Result<Option<Sandbox>> {
    let now = ctx.now();
    let input = Input::Delete { cause, within: ctx.settings.lifetimes.removal };
    let Some(ended) = next(sandbox, input, now)? else { return Ok(None) };
    sandboxes::update(tx, sandbox, &ended, None).await?;
    let act = Act {
        act: "sandbox.deleted",
        subject: SubjectHash::of("sandbox", sandbox.id.0),
        generation: ended.generation,
        principal_id: by,
        at: now,
    };
    audit::record(tx, &act).await?;
    tracing::info!(sandbox.id = %sandbox.id, ?cause, by, "sandbox committed to removal");
    Ok(Some(ended))
}
