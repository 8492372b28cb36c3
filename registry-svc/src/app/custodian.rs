//! registry-svc's half of an erasure: what it holds of an account, how that is stopped, deleted and read back. Of a
//! session it holds nothing, and takes part so that nothing can be said of one that is erased.
//!
//! Beats in Redis are listed by the inventory, because after the agents' rows only it knows their ids. A beat that
//! is still under way may put one of them back: it is found by the read-back, and the erasure is done again; by
//! then the agent's token is gone.
//!
//! Who may still write, which step may follow which, and that a step is answered the same again is
//! [`svc_core::custody`]'s part. Answers are stored as this module's own records.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Answered, Step, StepKind,
        custodian::{self, Committed, Counts, Description, Frozen, Invariant, Object, Outcome, Verified},
    },
    data::pg::{Pool, Subject, Tx},
    id::AgentId,
    run::clock::SharedClock,
};
use uuid::Uuid;

use super::heartbeat::Memory;
use crate::{
    error::{Error, Result},
    store::{
        beats::BeatStore,
        erasure::{self, Kind},
    },
};

/// What is kept of an agent in Redis, as the contract names it.
const BEATS: &str = "registry.heartbeats";

/// Rows that one call of Erase deletes at most, and one statement.
const ERASE_AT_ONCE: i64 = 20_000;
const ERASE_BATCH: i64 = 2_000;

/// Ids that one broken invariant names at most.
const MAX_OFFENDERS: i64 = 50;

/// Answer of Inventory, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    /// Agents of which something may be in Redis.
    agents: BTreeSet<Uuid>,
}

/// Answer of Erase, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows deleted by this call.
    deleted: Counts,
    /// Agents that Redis has forgotten.
    forgotten: BTreeSet<Uuid>,
    /// Whether nothing is left to do.
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

/// What Redis may know of an agent.
fn object(agent: Uuid) -> Object {
    Object { kind: BEATS.to_owned(), provider: "redis".to_owned(), id: agent.to_string() }
}

/// Use cases of an erasure.
#[derive(Debug, Clone)]
pub struct Custodian {
    pool: Pool,
    clock: SharedClock,
    beats: BeatStore,
    memory: Memory,
}

impl Custodian {
    /// A custodian of everything in `pool` and of the beats.
    #[must_use]
    pub const fn new(pool: Pool, clock: SharedClock, beats: BeatStore, memory: Memory) -> Self {
        Self { pool, clock, beats, memory }
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

    /// Stops every writer of the subject.
    async fn freeze(&self, step: Step) -> Result<Frozen> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let known = match step.subject {
            Subject::Account { account } => erasure::exists(open.tx(), account).await?,
            Subject::Session { .. } => false,
        };
        let reply = Frozen { known };
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// What is outside Postgres: what Redis may know of the account's agents.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(Listed::into(reply)),
            Answered::Now(open) => open,
        };
        let reply = Listed { agents: agents(open.tx(), step).await? };
        open.finish_as(&reply).await?;
        Ok(reply.into())
    }

    /// Has Redis forget, then deletes rows, kind by kind; what personal data the head holds goes too.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(Erased::into(reply)),
            Answered::Now(open) => open,
        };
        let known = agents(open.tx(), step).await?;
        // No transaction is open while Redis is asked.
        open.pause().await?;
        self.forget(&known).await?;

        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(Erased::into(reply)),
            Answered::Now(open) => open,
        };
        let mut reply = Erased { deleted: Counts::new(), forgotten: known, done: true };
        if let Subject::Account { account } = step.subject {
            erasure::blank_head(open.tx(), account).await?;
            let mut left = ERASE_AT_ONCE;
            for kind in Kind::ALL {
                let mut gone = 0;
                while left > 0 {
                    let batch = ERASE_BATCH.min(left);
                    let some = erasure::delete_some(open.tx(), kind, account, batch).await?;
                    let some = i64::try_from(some).unwrap_or(batch);
                    gone += some;
                    left -= some;
                    if some < batch {
                        break;
                    }
                }
                reply.deleted.push((kind.name().to_owned(), gone));
            }
            if left == 0 {
                open.pause().await?;
                return Ok(Erased { done: false, ..reply }.into());
            }
        }
        open.finish_as(&reply).await?;
        Ok(reply.into())
    }

    /// Reads back what is left, here and in Redis.
    async fn verify(&self, step: Step) -> Result<Verified> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let known = agents(open.tx(), step).await?;
        open.pause().await?;
        let mut remembered = 0;
        for agent in &known {
            remembered += i64::from(self.beats.remembers(AgentId(*agent)).await?);
        }

        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let account = match step.subject {
            Subject::Account { account } => Some(account),
            Subject::Session { .. } => None,
        };
        let (counts, at) = erasure::count(open.tx(), account).await?;
        let rows = counts.into_iter().map(|(kind, count)| (kind.name().to_owned(), count));
        Ok(open.finish_verify(rows.chain([(BEATS.to_owned(), remembered)]).collect(), at).await?)
    }

    /// Deletes the head: the tombstone alone stays.
    async fn commit(&self, step: Step) -> Result<Committed> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        if let Subject::Account { account } = step.subject {
            erasure::delete_head(open.tx(), account).await?;
        }
        Ok(open.finish_commit(self.clock.now()).await?)
    }

    /// Runs the custody invariants.
    async fn check_invariants(&self) -> Result<Vec<Invariant>> {
        let mut db = self.pool.acquire().await?;
        Ok(vec![
            Invariant {
                name: "nothing_of_an_erased_account",
                offenders: erasure::list_erased_with_rows(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_account_without_custody",
                offenders: erasure::list_without_custody(&mut db, MAX_OFFENDERS).await?,
            },
        ])
    }
}

impl Custodian {
    /// Forgets agents, in this process and in Redis. That Redis has not forgotten them is an error here, unlike
    /// elsewhere.
    async fn forget(&self, agents: &BTreeSet<Uuid>) -> Result<()> {
        if agents.is_empty() {
            return Ok(());
        }
        let agents: Vec<AgentId> = agents.iter().copied().map(AgentId).collect();
        self.memory.forget(&agents).await;
        Ok(self.beats.forget(&agents).await?)
    }
}

/// Names of everything that Describe declares and Verify counts. The account's head goes at Commit.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    Kind::ALL.into_iter().map(Kind::name).chain([BEATS])
}

/// The subject's agents: those that there are, and those that the inventory listed when there were more.
async fn agents(tx: &mut Tx, step: Step) -> Result<BTreeSet<Uuid>> {
    let Subject::Account { account } = step.subject else { return Ok(BTreeSet::new()) };
    let listed = custody::answer_of::<Listed>(tx, step, StepKind::Inventory).await?;
    let there = erasure::list_agents(tx, account).await?;
    let mut agents = listed.unwrap_or_default().agents;
    agents.extend(there.into_iter().map(|agent| agent.0));
    Ok(agents)
}
