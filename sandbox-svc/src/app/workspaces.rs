//! Removes workspaces after their retention.

use svc_core::data::lease::Held;

use super::{Deps, WORKER, audit_workspace};
use crate::{domain::spec::volume_name, engine, error::Result, store::volumes};

/// Maximum workspaces of one pass.
const BATCH: i64 = 50;

/// Removes the workspaces that are due. The engine refuses to remove a volume that a container still mounts;
/// the next pass tries again.
///
/// # Errors
/// An error of Postgres, or of a lease that was lost. An engine that fails is only logged.
pub async fn remove_due(deps: &Deps, held: &Held) -> Result<()> {
    let served = deps.engine.get()?;
    let mut tx = held.tx().await?;
    let due = volumes::begin_removal(&mut tx, &served.info.id, deps.now(), BATCH).await?;
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
        let now = deps.now();
        let mut tx = held.tx().await?;
        if volumes::confirm_removal(&mut tx, id, now).await? {
            audit_workspace(&mut tx, id, WORKER, now).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
