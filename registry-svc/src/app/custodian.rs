//! registry-svc's part of an erasure: it lists, deletes and counts the data of an account. It has no data of
//! a session, but answers the steps, because the erasure of a session calls every custodian too.
//!
//! Inventory lists the agents that may have beats in Redis: once the agents' rows are deleted, no other row
//! has their ids. A beat that arrives during the erasure may write to Redis again. Verify then finds it and
//! the erasure runs again; by then the agent's token no longer exists.
//!
//! [`svc_core::custody`] decides which writers and steps are allowed, and answers repeated steps with the
//! stored answer, which is a [`Listed`] or [`Erased`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Step, StepKind,
        custodian::{self, Committed, Counts, Description, Frozen, Invariant, Object, Outcome, Verified},
    },
    data::pg::{Pool, Tx},
    id::AgentId,
    run::clock::SharedClock,
    subject::Subject,
};
use uuid::Uuid;

use super::heartbeat::SnapshotCache;
use crate::{
    error::{Error, Result},
    store::{
        beats::BeatStore,
        erasure::{self, TABLES},
    },
};

/// The kind of the beats of agents in Redis.
const BEATS: &str = "registry.heartbeats";

/// Maximum ids that one broken invariant lists.
const MAX_OFFENDERS: i64 = 50;

/// The stored answer of Inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    /// Agents that may have data in Redis.
    agents: BTreeSet<Uuid>,
}

/// The stored answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows deleted by the call.
    deleted: Counts,
    /// Agents deleted in Redis.
    forgotten: BTreeSet<Uuid>,
    /// Whether the erasure is complete.
    done: bool,
}

impl From<Listed> for Vec<Object> {
    fn from(Listed { agents }: Listed) -> Self {
        agents.into_iter().map(object).collect()
    }
}

impl From<Erased> for custodian::Erased {
    fn from(Erased { deleted, forgotten, done }: Erased) -> Self {
        let objects = forgotten.into_iter().map(|agent| (object(agent), Outcome::Deleted)).collect();
        Self { deleted, objects, done }
    }
}

fn object(agent: Uuid) -> Object {
    Object { kind: BEATS.to_owned(), provider: "redis".to_owned(), id: agent.to_string() }
}

/// Does the steps of an erasure on the data in Postgres and Redis.
#[derive(Debug, Clone)]
pub(crate) struct Custodian {
    pool: Pool,
    clock: SharedClock,
    beats: BeatStore,
    cache: SnapshotCache,
}

impl Custodian {
    pub(crate) const fn new(pool: Pool, clock: SharedClock, beats: BeatStore, cache: SnapshotCache) -> Self {
        Self { pool, clock, beats, cache }
    }

    /// Deletes the agents' data in this process and in Redis. An error of Redis is returned, because an
    /// erasure must not leave data in it.
    async fn forget(&self, agents: &BTreeSet<Uuid>) -> Result<()> {
        if agents.is_empty() {
            return Ok(());
        }
        let agents: Vec<AgentId> = agents.iter().copied().map(AgentId).collect();
        self.cache.delete(&agents).await;
        Ok(self.beats.delete(&agents).await?)
    }
}

impl custodian::Custodian for Custodian {
    type Error = Error;

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn describe(&self) -> Description {
        Description { kinds: kinds().map(str::to_owned).collect(), survivors: Vec::new() }
    }

    async fn freeze(&self, step: Step) -> Result<Frozen> {
        custody::step(&self.pool, step, async |mut open| {
            let known = TABLES.any(open.tx(), step.subject).await?;
            Ok(open.answer(Frozen { known }).await?)
        })
        .await
    }

    /// Lists the agents that may have data in Redis.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        let listed = custody::step(&self.pool, step, async |mut open| {
            let agents = agents(open.tx(), step).await?;
            Ok::<_, Error>(open.answer(Listed { agents }).await?)
        });
        Ok(listed.await?.into())
    }

    /// Deletes the agents' data in Redis, blanks the account's row and deletes all other rows.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let erased = custody::step(&self.pool, step, async |mut open| {
            let forgotten = agents(open.tx(), step).await?;
            // No transaction is open during the calls to Redis.
            open.pause().await?;
            self.forget(&forgotten).await?;
            custody::step(&self.pool, step, async |mut open| {
                let mut erased = Erased { deleted: Counts::new(), forgotten, done: true };
                if let Subject::Account { account } = step.subject {
                    erasure::blank_head(open.tx(), account).await?;
                    erased.done = TABLES.delete(open.tx(), step.subject, &mut erased.deleted).await?;
                }
                if erased.done {
                    return Ok(open.answer(erased).await?);
                }
                open.pause().await?;
                Ok::<_, Error>(erased)
            })
            .await
        });
        Ok(erased.await?.into())
    }

    /// Counts the rows that are left, and the agents that have data in Redis.
    async fn verify(&self, step: Step) -> Result<Verified> {
        custody::step(&self.pool, step, async |mut open| {
            let known = agents(open.tx(), step).await?;
            open.pause().await?;
            let mut beats = 0;
            for agent in known {
                beats += i64::from(self.beats.has(AgentId(agent)).await?);
            }
            custody::step(&self.pool, step, async |mut open| {
                let (mut counts, at) = TABLES.count(open.tx(), step.subject).await?;
                counts.push((BEATS.to_owned(), beats));
                Ok(open.finish_verify(counts, at).await?)
            })
            .await
        })
        .await
    }

    async fn commit(&self, step: Step) -> Result<Committed> {
        custody::step(&self.pool, step, async |mut open| {
            TABLES.delete_heads(open.tx(), step.subject).await?;
            Ok(open.finish_commit(self.clock.now()).await?)
        })
        .await
    }

    async fn check_invariants(&self) -> Result<Vec<Invariant>> {
        let mut db = self.pool.acquire().await?;
        Ok(vec![
            Invariant {
                name: "nothing_of_an_erased_account",
                offenders: TABLES.leftovers(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_account_without_custody",
                offenders: erasure::list_without_custody(&mut db, MAX_OFFENDERS).await?,
            },
        ])
    }
}

/// Returns the kinds that Describe declares and Verify counts. Commit deletes the account's row, which is not
/// one of them.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    TABLES.kinds().chain([BEATS])
}

/// Returns the agents of the subject: those that exist, and those that the inventory listed before they were
/// deleted.
async fn agents(tx: &mut Tx, step: Step) -> Result<BTreeSet<Uuid>> {
    let Subject::Account { account } = step.subject else { return Ok(BTreeSet::new()) };
    let listed = custody::answer_of::<Listed>(tx, step, StepKind::Inventory).await?;
    let there = erasure::list_agents(tx, account).await?;
    let mut agents = listed.unwrap_or_default().agents;
    agents.extend(there.into_iter().map(|agent| agent.0));
    Ok(agents)
}
