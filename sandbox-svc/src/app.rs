//! Use cases: they choose ids and times, begin and commit transactions, and decide what follows a failure.

pub mod admission;
pub mod creation;
pub mod custodian;
pub mod deadlines;
pub mod execs;
pub mod files;
pub mod notices;
pub mod reconcile;
pub mod removal;
pub mod sandboxes;
pub mod served;
pub mod settings;
pub mod warm_pool;
pub mod workspaces;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use svc_core::{
    data::{
        audit::{self, Act},
        pg::{Pool, Tx},
    },
    id::SandboxId,
    run::{clock::SharedClock, lifecycle::Lifecycle},
    subject::{Subject, SubjectHash},
};

use self::{notices::Notices, served::EngineSlot, settings::Settings};
use crate::{
    domain::{
        VolumeId,
        sandbox::{Cause, Owner, Sandbox},
        transition::{Input, next},
    },
    engine::ContainerId,
    error::Result,
    metrics::Metrics,
    store::sandboxes as rows,
};

/// Collaborators of the use cases; cheap to clone.
#[derive(Debug, Clone)]
pub struct Deps {
    pub pool: Pool,
    pub clock: SharedClock,
    pub notices: Notices,
    pub lifecycle: Lifecycle,
    pub settings: Arc<Settings>,
    pub engine: EngineSlot,
    pub metrics: Metrics,
}

/// Principal id in the audit log for acts of a worker, which has no caller.
const WORKER: &str = "sandbox-svc";

impl Deps {
    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Commits a sandbox to its removal in `tx`, which must have locked the row, and writes this to the audit
    /// log, because a committed removal cannot be undone. Returns `None` if the removal is committed already.
    async fn commit_removal(
        &self,
        tx: &mut Tx,
        sandbox: &Sandbox,
        cause: Cause,
        by: &str,
    ) -> Result<Option<Sandbox>> {
        let now = self.now();
        let input = Input::Delete { cause, within: self.settings.lifetimes.removal };
        let Some(ended) = next(sandbox, input, now)? else { return Ok(None) };
        rows::update(tx, sandbox, &ended, None).await?;
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

    /// Commits a sandbox to its removal in `tx` and notifies its waiters. `cause` gets the locked row and
    /// returns the cause of the removal. Returns `false` and commits nothing if `cause` returns `None`, or if
    /// the sandbox is absent or its removal is committed already.
    async fn end(
        &self,
        mut tx: Tx,
        id: SandboxId,
        cause: impl FnOnce(&Sandbox) -> Option<Cause>,
    ) -> Result<bool> {
        let Some(sandbox) = rows::lock(&mut tx, None, id).await? else { return Ok(false) };
        let Some(cause) = cause(&sandbox) else { return Ok(false) };
        if self.commit_removal(&mut tx, &sandbox, cause, WORKER).await?.is_none() {
            return Ok(false);
        }
        tx.commit().await?;
        self.notices.removal_committed(&sandbox).await;
        Ok(true)
    }

    /// Writes the id of a sandbox's container. Returns the sandbox as written.
    async fn confirm_id(&self, sandbox: &Sandbox, id: &ContainerId) -> Result<Sandbox> {
        let input = Input::Made { container: id.0.clone() };
        let Some(after) = next(sandbox, input, self.now())? else { return Ok(sandbox.clone()) };
        let mut tx = Tx::system(&self.pool).await?;
        rows::update(&mut tx, sandbox, &after, None).await?;
        tx.commit().await?;
        Ok(after)
    }
}

/// Records in the audit log that a workspace is removed.
async fn audit_workspace(tx: &mut Tx, volume: VolumeId, by: &str, at: DateTime<Utc>) -> Result<()> {
    let act = Act {
        act: "workspace.removed",
        subject: SubjectHash::of("volume", volume.0),
        generation: 1,
        principal_id: by,
        at,
    };
    Ok(audit::record(tx, &act).await?)
}

/// Returns the custody subject of an owner's data.
const fn subject(owner: Owner) -> Subject {
    Subject::Session { account: owner.account, session: owner.session }
}
