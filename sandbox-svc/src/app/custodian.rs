//! sandbox-svc's part in an erasure: it freezes, removes and counts what it stores of a subject (an account
//! or one session).
//!
//! A freeze refuses later writes and commits sandboxes that do not run yet to removal. Running ones stay, so
//! that the session has them again after a thaw. Erase commits everything to removal in one transaction, and
//! then carries the removals out as [`super::removal`] does. When all sandboxes are final, it removes the
//! resources in the inventory that still exist, and only then deletes the rows.
//!
//! Verify asks Postgres, the engine and its host. If the engine does not answer, or another process serves
//! it, Verify fails instead of reporting zero.
//!
//! [`svc_core::custody`] decides which writes and steps are allowed, and returns the stored answer to a
//! repeated step. `Listed` and `Erased` are such answers.

mod resources;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Step, StepKind,
        custodian::{
            self, Committed, Counts, Description, Frozen, Invariant, Object, Outcome, PURGE, Verified,
        },
    },
    data::pg::{Pool, Tx},
    error::Chain,
    id::new_id,
    subject::Subject,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Deps, audit_workspace, removal::Remover};
use crate::{
    domain::{
        residue::{RemovalOutcome, Resource, ResourceKind, RetryReason},
        sandbox::{Cause, Sandbox, State},
        spec::{container_name, volume_name},
    },
    error::{Error, Result},
    store::{
        erasure::{self, EXECS, TABLES},
        sandboxes as rows,
    },
};

/// Longest time that one Erase keeps removing. It is below the time for which purge-svc waits for an answer.
const ERASE_TIME: Duration = Duration::from_secs(20);
/// Time between two reads of the progress of the removals, which other workers carry out, too.
const REMOVAL_POLL: Duration = Duration::from_millis(100);
/// Maximum ids that one violated invariant reports.
const MAX_OFFENDERS: i64 = 50;

/// The stored answer of Inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    #[serde(rename = "things")]
    resources: BTreeSet<Resource>,
}

/// The stored answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows deleted by this call.
    deleted: Counts,
    #[serde(rename = "things")]
    outcomes: Vec<(Resource, RemovalOutcome)>,
    /// Whether nothing is left to remove.
    done: bool,
}

impl From<Erased> for custodian::Erased {
    fn from(Erased { deleted, outcomes, done }: Erased) -> Self {
        let objects = outcomes.into_iter().map(|(resource, outcome)| (resource.into(), outcome.into()));
        Self { deleted, objects: objects.collect(), done }
    }
}

impl From<Resource> for Object {
    fn from(resource: Resource) -> Self {
        Self { kind: resource.kind.name().to_owned(), provider: resource.provider(), id: resource.name }
    }
}

impl From<RemovalOutcome> for Outcome {
    fn from(outcome: RemovalOutcome) -> Self {
        match outcome {
            RemovalOutcome::Removed => Self::Deleted,
            RemovalOutcome::Absent => Self::AlreadyGone,
            RemovalOutcome::Retry(reason) => Self::Transient(reason.code()),
        }
    }
}

/// The custodian of everything that this service stores.
#[derive(Debug, Clone)]
pub struct Custodian {
    deps: Deps,
    remover: Remover,
}

/// State of a subject after everything of it is committed to removal.
struct Pending {
    /// Sandboxes that are not final yet.
    sandboxes: Vec<Sandbox>,
    resources: BTreeSet<Resource>,
    /// Whether rows of `execs` may be left: one pass deletes at most `ERASE_AT_ONCE` of them.
    more: bool,
}

impl Custodian {
    pub fn new(deps: Deps) -> Self {
        let remover = Remover { deps: deps.clone(), holder: format!("custodian/{}", new_id()) };
        Self { deps, remover }
    }
}

impl custodian::Custodian for Custodian {
    type Error = Error;

    fn pool(&self) -> &Pool {
        &self.deps.pool
    }

    fn describe(&self) -> Description {
        let outside = ResourceKind::ALL.into_iter().map(ResourceKind::name);
        let kinds = TABLES.kinds().chain(outside).map(str::to_owned).collect();
        Description { kinds, survivors: Vec::new() }
    }

    /// Freezes the subject, so that writes are refused, and commits its sandboxes that do not run yet to
    /// removal.
    async fn freeze(&self, step: Step) -> Result<Frozen> {
        custody::step(&self.deps.pool, step, async |mut open| {
            let known = TABLES.any(open.tx(), step.subject).await?;
            let ended = self.commit_removals(open.tx(), step.subject, State::is_pending).await?;
            let reply = open.answer(Frozen { known }).await?;
            self.notify(&ended).await;
            Ok(reply)
        })
        .await
    }

    /// Lists the subject's resources outside Postgres. Later steps find no new ones: the subject is frozen,
    /// and the sandboxes that did not run yet are committed to removal.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        let listed: Result<Listed> = custody::step(&self.deps.pool, step, async |mut open| {
            let sandboxes = self.list_unfinished(open.tx(), step.subject).await?;
            let resources = list_resources(open.tx(), step.subject, &sandboxes).await?;
            Ok(open.answer(Listed { resources }).await?)
        })
        .await;
        Ok(listed?.resources.into_iter().map(Object::from).collect())
    }

    /// Commits everything of the subject to removal, and removes what it can; waits at most `ERASE_TIME` for
    /// removals under way.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let until = Instant::now() + ERASE_TIME;
        let mut deleted = Counts::new();
        loop {
            let mut waits = false;
            let erased: Result<Erased> = custody::step(&self.deps.pool, step, async |mut open| {
                let (pending, ended) = self.commit_all(open.tx(), step, &mut deleted).await?;
                open.pause().await?;
                self.notify(&ended).await;
                if pending.more {
                    return Ok(Erased { deleted: deleted.clone(), outcomes: Vec::new(), done: false });
                }
                let outcomes = if pending.sandboxes.is_empty() {
                    resources::remove_all(&self.deps, pending.resources).await
                } else {
                    let obstacle = self.remove(&pending.sandboxes).await;
                    waits = obstacle.is_none() && Instant::now() < until;
                    let retry = RemovalOutcome::Retry(obstacle.unwrap_or(RetryReason::UnderWay));
                    pending.resources.into_iter().map(|resource| (resource, retry)).collect()
                };
                let retries = outcomes.iter().any(|(_, outcome)| matches!(outcome, RemovalOutcome::Retry(_)));
                // A sandbox without any resource may be unfinished, too.
                if retries || !pending.sandboxes.is_empty() {
                    return Ok(Erased { deleted: deleted.clone(), outcomes, done: false });
                }
                self.delete_rows(step, &mut deleted, outcomes).await
            })
            .await;
            let erased = erased?;
            if !waits {
                return Ok(erased.into());
            }
            sleep(REMOVAL_POLL).await;
        }
    }

    /// Counts the rows and resources that are left in Postgres, at the engine and on its host.
    async fn verify(&self, step: Step) -> Result<Verified> {
        custody::step(&self.deps.pool, step, async |mut open| {
            let listed = custody::answer_of::<Listed>(open.tx(), step, StepKind::Inventory).await?;
            // No transaction may be open while the engine is asked.
            open.pause().await?;
            let outside = resources::count(&self.deps, &listed.unwrap_or_default().resources).await?;
            custody::step(&self.deps.pool, step, async |mut open| {
                let (mut counts, at) = TABLES.count(open.tx(), step.subject).await?;
                counts.extend(outside.map(|(kind, count)| (kind.name().to_owned(), count)));
                Ok(open.finish_verify(counts, at).await?)
            })
            .await
        })
        .await
    }

    /// Commits the erasure. sandbox-svc has no row of the session or account itself to delete; the custody
    /// row stays.
    async fn commit(&self, step: Step) -> Result<Committed> {
        custody::step(&self.deps.pool, step, async |open| Ok(open.finish_commit(self.deps.now()).await?))
            .await
    }

    async fn check_invariants(&self) -> Result<Vec<Invariant>> {
        let mut db = self.deps.pool.acquire().await?;
        Ok(vec![
            Invariant {
                name: "nothing_of_an_erased_subject",
                offenders: TABLES.leftovers(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_live_sandbox_of_an_erasing_subject",
                offenders: erasure::list_live_of_erasing(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_workspace_let_go_while_in_use",
                offenders: erasure::list_removed_in_use(&mut db, MAX_OFFENDERS).await?,
            },
        ])
    }
}

impl Custodian {
    /// Commits everything of the subject to removal, and deletes its journaled calls. Returns what is left to
    /// remove, and the sandboxes with a newly committed removal.
    async fn commit_all(
        &self,
        tx: &mut Tx,
        step: Step,
        deleted: &mut Counts,
    ) -> Result<(Pending, Vec<Sandbox>)> {
        let subject = step.subject;
        let ended = self.commit_removals(tx, subject, |state| state != State::Deleting).await?;
        let more = !TABLES.delete_kind(tx, EXECS, subject, deleted).await?;
        erasure::begin_removal(tx, subject).await?;
        let sandboxes = self.list_unfinished(tx, subject).await?;
        let mut resources = list_resources(tx, subject, &sandboxes).await?;
        let listed = custody::answer_of::<Listed>(tx, step, StepKind::Inventory).await?;
        resources.extend(listed.unwrap_or_default().resources);
        Ok((Pending { sandboxes, resources, more }, ended))
    }

    /// Carries out the removals on the served engine; other replicas do so on their engines. If a removal
    /// failed, returns why it must be repeated.
    async fn remove(&self, sandboxes: &[Sandbox]) -> Option<RetryReason> {
        let Ok(served) = self.deps.engine.get() else {
            return Some(RetryReason::EngineUnavailable);
        };
        let mut obstacle = None;
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.engine == served.info.id) {
            if let Err(error) = self.remover.remove(sandbox.id, sandbox.epoch).await {
                tracing::warn!(sandbox.id = %sandbox.id, error = %Chain(&error), "sandbox not erased yet");
                obstacle = Some(RetryReason::EngineUnavailable);
            }
        }
        obstacle
    }

    /// Deletes the subject's rows, after everything that they name is gone.
    async fn delete_rows(
        &self,
        step: Step,
        deleted: &mut Counts,
        outcomes: Vec<(Resource, RemovalOutcome)>,
    ) -> Result<Erased> {
        custody::step(&self.deps.pool, step, async |mut open| {
            let now = self.deps.now();
            for volume in erasure::confirm_removal(open.tx(), step.subject, now).await? {
                audit_workspace(open.tx(), volume, PURGE, now).await?;
            }
            let done = TABLES.delete(open.tx(), step.subject, deleted).await?;
            let erased = Erased { deleted: deleted.clone(), outcomes, done };
            match done {
                true => Ok(open.answer(erased).await?),
                false => {
                    open.pause().await?;
                    Ok(erased)
                }
            }
        })
        .await
    }

    /// Commits the subject's sandboxes in states that `which` accepts to their removal. Returns them.
    async fn commit_removals(
        &self,
        tx: &mut Tx,
        subject: Subject,
        which: fn(State) -> bool,
    ) -> Result<Vec<Sandbox>> {
        let mut ended = Vec::new();
        for id in erasure::list_unfinished(tx, subject).await? {
            let Some(sandbox) = rows::lock(tx, Some(subject.account()), id).await? else { continue };
            if which(sandbox.state) {
                ended.extend(self.deps.commit_removal(tx, &sandbox, Cause::Erased, PURGE).await?);
            }
        }
        Ok(ended)
    }

    async fn list_unfinished(&self, tx: &mut Tx, subject: Subject) -> Result<Vec<Sandbox>> {
        let ids: Vec<Uuid> =
            erasure::list_unfinished(tx, subject).await?.into_iter().map(|id| id.0).collect();
        Ok(rows::read(tx, Some(subject.account()), &ids).await?)
    }

    async fn notify(&self, ended: &[Sandbox]) {
        for sandbox in ended {
            self.deps.notices.removal_committed(sandbox).await;
        }
    }
}

/// Lists everything that the subject has, or may have, outside Postgres. Run directories of final sandboxes
/// are included, because their deletion may have failed.
async fn list_resources(tx: &mut Tx, subject: Subject, sandboxes: &[Sandbox]) -> Result<BTreeSet<Resource>> {
    let containers = sandboxes.iter().filter_map(|sandbox| {
        let container = sandbox.container.as_ref()?;
        let name = container_name(sandbox.id, container.generation);
        Some(Resource { kind: ResourceKind::Container, engine: sandbox.engine.clone(), name })
    });
    let mut resources: BTreeSet<Resource> = containers.collect();
    for (volume, engine) in erasure::list_volumes(tx, subject).await? {
        resources.insert(Resource { kind: ResourceKind::Volume, engine, name: volume_name(volume) });
    }
    for (engine, name) in erasure::list_run_dirs(tx, subject).await? {
        resources.insert(Resource { kind: ResourceKind::RunDirectory, engine, name });
    }
    Ok(resources)
}
