//! Giving a session its sandbox: the one it has, one from the pool, or the wish for one.

use svc_core::{
    custody,
    data::pg::{self, Tx},
    id::{AccountId, SandboxId, SessionId},
    run::telemetry,
};

use super::{
    Context,
    lifecycle::{View, view},
    subject,
};
use crate::{
    domain::{
        VolumeId,
        pool::Slot,
        sandbox::{Owner, Sandbox, State, after},
    },
    error::{Error, Result},
    store::{
        pool::{self, Wanted},
        sandboxes::{self, ONE_LIVE_A_SESSION},
        volumes::{self, ONE_VOLUME_A_SESSION},
    },
};

/// Tries of a transaction that lost a race: each loss means that somebody else won, so few are enough.
const TRIES: u32 = 5;

/// Whether this account is known here as a session's owner.
///
/// # Errors
/// [`Error::Pg`].
pub async fn is_known(ctx: &Context, account: AccountId, session: SessionId) -> Result<bool> {
    let mut db = ctx.pool.acquire().await?;
    Ok(custody::record(&mut db, subject(Owner { account, session })).await?.is_some())
}

/// Returns the session's live sandbox, or takes one from the pool, or accepts the wish for one.
///
/// # Errors
/// [`Error::SessionNotFound`] if the session is another tenant's.
pub async fn create(ctx: &Context, account: AccountId, session: SessionId) -> Result<View> {
    let owner = Owner { account, session };
    let mut tries = 0;
    let sandbox = loop {
        tries += 1;
        match provide(ctx, owner).await {
            // Somebody gave the session a sandbox between our look and our write: now it is there to be found.
            Err(Error::Pg(error))
                if (error.violates(ONE_LIVE_A_SESSION) || error.violates(ONE_VOLUME_A_SESSION))
                    && tries < TRIES => {}
            provided => break provided?,
        }
    };
    view(ctx, sandbox).await
}

async fn provide(ctx: &Context, owner: Owner) -> Result<Sandbox> {
    let served = ctx.served()?;
    let mut tx = Tx::for_subject_or_new(&ctx.pool, subject(owner)).await.map_err(|error| match error {
        pg::Error::SubjectNotFound { .. } => Error::SessionNotFound,
        other => other.into(),
    })?;
    if let Some(live) = sandboxes::find_live(&mut tx, owner.session).await? {
        return match live.owner == Some(owner) {
            true => Ok(live),
            false => Err(Error::SessionNotFound),
        };
    }
    let now = ctx.now();
    let (volume, engine) = match volumes::keep_of_session(&mut tx, owner).await? {
        // Its workspace decides where it lives, and that it is made around it.
        Some(kept) => kept,
        None => {
            let wanted = Wanted {
                engine: &served.info.id,
                shape: &ctx.settings.shape,
                lives_until: after(now, MIN_LIFE),
            };
            let deadline = after(now, ctx.settings.lifetimes.idle);
            if let Some((id, volume)) = pool::claim(&mut tx, wanted, owner, now, deadline).await? {
                volumes::assign(&mut tx, volume, owner).await?;
                let claimed =
                    sandboxes::find(&mut tx, Some(owner.account), id).await?.ok_or(Error::NotFound)?;
                tx.commit().await?;
                ctx.tell_workers(&claimed.engine).await;
                return Ok(claimed);
            }
            let volume = VolumeId::new();
            volumes::insert(&mut tx, volume, &served.info.id, Some(owner), now).await?;
            (volume, served.info.id.clone())
        }
    };
    let sandbox = Sandbox { owner: Some(owner), ..wish(ctx, engine, volume) };
    sandboxes::insert(&mut tx, &sandbox).await?;
    if let Some(traceparent) = telemetry::traceparent(&tracing::Span::current()) {
        sandboxes::note_trace(&mut tx, sandbox.id, &traceparent).await?;
    }
    tx.commit().await?;
    ctx.tell_workers(&sandbox.engine).await;
    Ok(sandbox)
}

/// A claimed sandbox has at least this long before the pool would have retired it: a claim and the retirement of the
/// same sandbox must not meet.
const MIN_LIFE: std::time::Duration = std::time::Duration::from_secs(5);

/// Asks for a sandbox for a place of the pool, in `tx`.
///
/// # Errors
/// [`Error::Pg`]; a conflict if the place is being filled already.
pub async fn fill(
    ctx: &Context,
    tx: &mut Tx,
    engine: &str,
    number: i32,
    retire_at: chrono::DateTime<chrono::Utc>,
) -> Result<SandboxId> {
    let volume = VolumeId::new();
    volumes::insert(tx, volume, engine, None, ctx.now()).await?;
    let sandbox = Sandbox {
        warm: true,
        slot: Some(Slot::filling(number)),
        retire_at: Some(retire_at),
        ..wish(ctx, engine.to_owned(), volume)
    };
    sandboxes::insert(tx, &sandbox).await?;
    Ok(sandbox.id)
}

fn wish(ctx: &Context, engine: String, volume: VolumeId) -> Sandbox {
    let now = ctx.now();
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
        shape: ctx.settings.shape.clone(),
        volume,
        container: None,
        cause: None,
        created_at: now,
        running_at: None,
        last_active_at: now,
        deadline_at: after(now, ctx.settings.create.queue_deadline),
        ended_at: None,
    }
}
