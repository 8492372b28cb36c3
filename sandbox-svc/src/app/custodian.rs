//! sandbox-svc's half of an erasure: what it holds of a subject, how that is stopped, removed and read back.
//!
//! A freeze keeps out whoever would write and gives up what is still being made; what runs stays, so that a thaw
//! gives it back. An erasure commits everything to removal first, in one transaction, and then carries it out as
//! every removal is ([`super::removal`]): container, absence, row. What the inventory listed is looked for once
//! more before the last row goes, because after that only the inventory knows its names.
//!
//! A read-back asks Postgres, the engine and its host. An engine that does not answer, or that is not served here,
//! is unknown and never counts as zero.
//!
//! Who may still write, which step may follow which, and that a step is answered the same again is
//! [`svc_core::custody`]'s part. Answers are stored as this module's own records.

mod engine;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Answered, Step, StepKind,
        custodian::{
            self, Committed, Counts, Description, Frozen, Invariant, Object, Outcome, PURGE, Verified,
        },
    },
    data::{
        audit::{self, Act, SubjectHash},
        pg::{Pool, Subject, Tx},
    },
    id::new_id,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Shared, lifecycle::end, removal, volume_name};
use crate::{
    domain::{
        residue::{Fate, Hindrance, Thing, ThingKind},
        sandbox::{Cause, Sandbox, State},
        spec::container_name,
    },
    error::{Error, Result},
    store::{
        erasure::{self, Kind, Scope},
        sandboxes,
    },
};

/// How long one call of Erase goes on removing: it ends well before its caller's patience does.
const ERASE_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked whether others have removed what they are at.
const LOOK: Duration = Duration::from_millis(100);

/// Rows that one call of Erase deletes at most, and one statement.
const ERASE_AT_ONCE: i64 = 20_000;
const ERASE_BATCH: i64 = 2_000;

/// Ids that one broken invariant names at most.
const MAX_OFFENDERS: i64 = 50;

/// Answer of Inventory, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    /// Everything outside Postgres.
    things: BTreeSet<Thing>,
}

/// Answer of Erase, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows deleted by this call.
    deleted: Counts,
    /// What became of things outside Postgres.
    things: Vec<(Thing, Fate)>,
    /// Whether nothing is left to do.
    done: bool,
}

impl From<Listed> for Vec<Object> {
    fn from(Listed { things }: Listed) -> Self {
        things.into_iter().map(Object::from).collect()
    }
}

impl From<Erased> for custodian::Erased {
    fn from(Erased { deleted, things, done }: Erased) -> Self {
        let objects = things.into_iter().map(|(thing, fate)| (thing.into(), fate.into())).collect();
        Self { deleted, objects, done }
    }
}

impl From<Thing> for Object {
    fn from(thing: Thing) -> Self {
        Self { kind: thing.kind.name().to_owned(), provider: thing.provider(), id: thing.name }
    }
}

impl From<Fate> for Outcome {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Removed => Self::Deleted,
            Fate::Absent => Self::AlreadyGone,
            Fate::Later(hindrance) => Self::Transient(hindrance.code()),
        }
    }
}

/// Use cases of an erasure.
#[derive(Debug, Clone)]
pub struct Custodian {
    ctx: Shared,
    /// Who this process is to leases.
    owner: String,
}

/// Everything of a subject that is committed to removal and not removed yet.
struct Doomed {
    sandboxes: Vec<Sandbox>,
    things: BTreeSet<Thing>,
    /// Whether rows are left that this call had no room for.
    more: bool,
}

impl Custodian {
    /// A custodian of everything that `ctx` holds.
    #[must_use]
    pub fn new(ctx: Shared) -> Self {
        Self { ctx, owner: format!("custodian/{}", new_id()) }
    }
}

impl custodian::Custodian for Custodian {
    type Error = Error;

    fn pool(&self) -> &Pool {
        &self.ctx.pool
    }

    fn describe(&self) -> Description {
        Description { kinds: kinds().map(str::to_owned).collect(), survivors: Vec::new() }
    }

    /// Stops every writer of the subject, and gives up the sandboxes that nobody has used yet.
    async fn freeze(&self, step: Step) -> Result<Frozen> {
        let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        let known = erasure::exists(open.tx(), scope).await?;
        let ended = self.end(open.tx(), scope, State::is_pending).await?;
        let reply = Frozen { known };
        open.finish_as(&reply).await?;
        self.tell(&ended).await;
        Ok(reply)
    }

    /// What is outside Postgres. Nothing is added to it later: whatever could is frozen or was given up.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(Listed::into(reply)),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        let sandboxes = self.unfinished(open.tx(), scope).await?;
        let reply = Listed { things: things(open.tx(), scope, &sandboxes).await? };
        open.finish_as(&reply).await?;
        Ok(reply.into())
    }

    /// Removes everything, as far as it goes within one call.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let until = Instant::now() + ERASE_WITHIN;
        let scope = scope(step.subject);
        let mut deleted = Counts::new();
        loop {
            let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
                Answered::Before(reply) => return Ok(Erased::into(reply)),
                Answered::Now(open) => open,
            };
            let (doomed, ended) = self.doom(open.tx(), step, &mut deleted).await?;
            open.pause().await?;
            self.tell(&ended).await;
            if doomed.more {
                return Ok(Erased { deleted, things: Vec::new(), done: false }.into());
            }
            let hindrance = self.remove(&doomed.sandboxes).await;
            if !doomed.sandboxes.is_empty() && hindrance.is_none() && Instant::now() < until {
                // Others may be at it too, so the rows say how far it is.
                sleep(LOOK).await;
                continue;
            }
            let fates = match (doomed.sandboxes.is_empty(), hindrance) {
                (true, _) => engine::remove_all(&self.ctx, doomed.things).await,
                (false, hindrance) => {
                    let fate = Fate::Later(hindrance.unwrap_or(Hindrance::UnderWay));
                    doomed.things.into_iter().map(|thing| (thing, fate)).collect()
                }
            };
            if fates.iter().any(|(_, fate)| matches!(fate, Fate::Later(_))) {
                return Ok(Erased { deleted, things: fates, done: false }.into());
            }
            return Ok(self.finish(step, scope, deleted, fates).await?.into());
        }
    }

    /// Reads back what is left, here and at the engine.
    async fn verify(&self, step: Step) -> Result<Verified> {
        let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let listed = custody::answer_of::<Listed>(open.tx(), step, StepKind::Inventory).await?;
        // No transaction is open while the engine is asked.
        open.pause().await?;
        let seen = engine::count(&self.ctx, &listed.unwrap_or_default().things).await?;

        let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let (counts, at) = erasure::count(open.tx(), scope(step.subject)).await?;
        let rows = counts.into_iter().map(|(kind, count)| (kind.name().to_owned(), count));
        let outside = seen.into_iter().map(|(kind, count)| (kind.name().to_owned(), count));
        Ok(open.finish_verify(rows.chain(outside).collect(), at).await?)
    }

    /// Leaves the tombstone alone; there is no head here.
    async fn commit(&self, step: Step) -> Result<Committed> {
        let open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        Ok(open.finish_commit(self.ctx.now()).await?)
    }

    /// Runs the custody invariants.
    async fn check_invariants(&self) -> Result<Vec<Invariant>> {
        let mut db = self.ctx.pool.acquire().await?;
        Ok(vec![
            Invariant {
                name: "nothing_of_an_erased_subject",
                offenders: erasure::list_erased_with_rows(&mut db, MAX_OFFENDERS).await?,
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
    /// Commits everything of the subject to removal, deletes what calls left, and answers what is to be removed.
    async fn doom(&self, tx: &mut Tx, step: Step, deleted: &mut Counts) -> Result<(Doomed, Vec<Sandbox>)> {
        let scope = scope(step.subject);
        let ended = self.end(tx, scope, |state| state != State::Deleting).await?;
        let gone = delete(tx, Kind::Execs, scope, ERASE_AT_ONCE).await?;
        note(deleted, Kind::Execs, gone);
        erasure::begin_removal(tx, scope).await?;
        let sandboxes = self.unfinished(tx, scope).await?;
        let mut things = things(tx, scope, &sandboxes).await?;
        let listed = custody::answer_of::<Listed>(tx, step, StepKind::Inventory).await?;
        things.extend(listed.unwrap_or_default().things);
        Ok((Doomed { sandboxes, things, more: gone == ERASE_AT_ONCE }, ended))
    }

    /// Carries out removals on the engine that is served here; says what stands in the way of the rest.
    async fn remove(&self, sandboxes: &[Sandbox]) -> Option<Hindrance> {
        let Ok(served) = self.ctx.served() else {
            return (!sandboxes.is_empty()).then_some(Hindrance::EngineUnavailable);
        };
        let mut hindrance = None;
        // Those of other engines are carried out by the replicas that serve them.
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.engine == served.info.id) {
            let removed = removal::remove(&self.ctx, served, sandbox.id, sandbox.epoch, &self.owner).await;
            if let Err(error) = removed {
                tracing::warn!(sandbox.id = %sandbox.id, error = %svc_core::wire::error::Chain(&error), "sandbox not erased yet");
                hindrance = Some(Hindrance::EngineUnavailable);
            }
        }
        hindrance
    }

    /// Deletes the rows: nothing that they stood for is left.
    async fn finish(
        &self,
        step: Step,
        scope: Scope,
        mut deleted: Counts,
        things: Vec<(Thing, Fate)>,
    ) -> Result<Erased> {
        let mut open = match custody::begin_as(&self.ctx.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let now = self.ctx.now();
        for volume in erasure::confirm_removal(open.tx(), scope, now).await? {
            let act = Act {
                act: "workspace.removed",
                subject: SubjectHash::of("volume", volume.0),
                generation: 1,
                principal_id: PURGE,
                at: now,
            };
            audit::record(open.tx(), &act).await?;
        }
        let mut left = ERASE_AT_ONCE;
        for kind in Kind::ALL {
            let gone = delete(open.tx(), kind, scope, left).await?;
            note(&mut deleted, kind, gone);
            left -= gone;
            if left == 0 {
                open.pause().await?;
                return Ok(Erased { deleted, things, done: false });
            }
        }
        let reply = Erased { deleted, things, done: true };
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// Commits sandboxes of the subject in certain states to their removal.
    async fn end(&self, tx: &mut Tx, scope: Scope, which: fn(State) -> bool) -> Result<Vec<Sandbox>> {
        let mut ended = Vec::new();
        for id in erasure::list_unfinished(tx, scope).await? {
            let Some(sandbox) = sandboxes::lock(tx, Some(scope.account), id).await? else { continue };
            if which(sandbox.state) {
                ended.extend(end(&self.ctx, tx, &sandbox, Cause::Erased, PURGE).await?);
            }
        }
        Ok(ended)
    }

    async fn unfinished(&self, tx: &mut Tx, scope: Scope) -> Result<Vec<Sandbox>> {
        let ids: Vec<Uuid> = erasure::list_unfinished(tx, scope).await?.into_iter().map(|id| id.0).collect();
        Ok(sandboxes::read(tx, Some(scope.account), &ids).await?)
    }

    async fn tell(&self, ended: &[Sandbox]) {
        for sandbox in ended {
            self.ctx.tell(sandbox.id).await;
            self.ctx.tell_workers(&sandbox.engine).await;
        }
    }
}

/// Names of everything that Describe declares and Verify counts.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().map(Kind::name).chain(ThingKind::ALL.into_iter().map(ThingKind::name))
}

/// What there is, or may be, of the subject outside Postgres. Run directories of sandboxes that are long gone are
/// named too: one that nobody could delete at the time may still be there.
async fn things(tx: &mut Tx, scope: Scope, sandboxes: &[Sandbox]) -> Result<BTreeSet<Thing>> {
    let containers = sandboxes.iter().filter_map(|sandbox| {
        let container = sandbox.container.as_ref()?;
        let name = container_name(sandbox.id, container.generation);
        Some(Thing { kind: ThingKind::Container, engine: sandbox.engine.clone(), name })
    });
    let mut things: BTreeSet<Thing> = containers.collect();
    for (volume, engine) in erasure::list_volumes(tx, scope).await? {
        things.insert(Thing { kind: ThingKind::Volume, engine, name: volume_name(volume) });
    }
    for (engine, name) in erasure::list_run_dirs(tx, scope).await? {
        things.insert(Thing { kind: ThingKind::RunDirectory, engine, name });
    }
    Ok(things)
}

/// Deletes up to `limit` rows; says how many those were.
async fn delete(tx: &mut Tx, kind: Kind, scope: Scope, limit: i64) -> Result<i64> {
    let mut gone = 0;
    while gone < limit {
        let batch = ERASE_BATCH.min(limit - gone);
        let some = i64::try_from(erasure::delete_some(tx, kind, scope, batch).await?).unwrap_or(batch);
        gone += some;
        if some < batch {
            break;
        }
    }
    Ok(gone)
}

fn note(deleted: &mut Counts, kind: Kind, count: i64) {
    match deleted.iter_mut().find(|(name, _)| name == kind.name()) {
        Some((_, total)) => *total += count,
        None => deleted.push((kind.name().to_owned(), count)),
    }
}

fn scope(subject: Subject) -> Scope {
    Scope { account: subject.account(), session: subject.session() }
}
