//! Removes workspaces whose time is over.
//!
//! Candidates: rows that are `live`, that no sandbox has or is to have, and whose retention is over; and those whose
//! removal is committed. The engine refuses to remove a volume that a container still has; it is tried again.

use std::sync::Arc;

use svc_core::data::{
    audit::{self, Act, SubjectHash},
    lease::Singleton,
};
use tokio::sync::Mutex;

use super::Kept;
use crate::{
    app::{Shared, making::WORKER, volume_name},
    engine,
    error::Result,
    store::volumes,
};

const BATCH: i64 = 50;

/// Starts removing workspaces.
pub fn start(ctx: &Shared, period: std::time::Duration, singleton: Singleton) {
    let ctx = ctx.clone();
    let lifecycle = ctx.lifecycle.clone();
    let kept = Arc::new(Mutex::new(Kept::new(singleton)));
    lifecycle.every("workspace removal", period, move || {
        let (ctx, kept) = (ctx.clone(), kept.clone());
        async move { Ok(pass(&ctx, &mut *kept.lock().await).await?) }
    });
}

/// Removes what is due, if this replica is the one.
///
/// # Errors
/// [`crate::Error`].
pub async fn pass(ctx: &Shared, kept: &mut Kept) -> Result<()> {
    let served = ctx.served()?;
    let Some(held) = kept.hold().await? else { return Ok(()) };
    let mut tx = held.tx().await?;
    let due = volumes::begin_removal(&mut tx, &served.info.id, ctx.now(), BATCH).await?;
    tx.commit().await?;
    for id in due {
        match served.engine.remove_volume(&volume_name(id)).await {
            Ok(engine::Removal::Removed | engine::Removal::Absent) => {}
            Ok(engine::Removal::InProgress) | Err(engine::Error::Conflict(_)) => {
                tracing::info!(volume.id = %id, "workspace is still in use");
                continue;
            }
            Err(error) => {
                tracing::warn!(volume.id = %id, %error, "workspace not removed yet");
                continue;
            }
        }
        let now = ctx.now();
        let mut tx = held.tx().await?;
        if volumes::confirm_removal(&mut tx, id, now).await? {
            let act = Act {
                act: "workspace.removed",
                subject: SubjectHash::of("volume", id.0),
                generation: 1,
                principal_id: WORKER,
                at: now,
            };
            audit::record(&mut tx, &act).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
