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
    audit::{self, Act, SubjectHash},
    clock::SharedClock,
    custody::{self, Answered, Step, StepKind},
    id::AgentId,
    page::{self, Page},
    pg::{Pool, Subject, SubjectKind, Tx},
};
use uuid::Uuid;

use super::heartbeat::Memory;
use crate::{
    error::Result,
    store::{
        beats::BeatStore,
        erasure::{self, Kind},
    },
};

const SUBJECTS: &str = "registry.subjects";

/// Who the audit log names.
const PURGE: &str = "purge-svc";

/// What is kept of an agent in Redis, as the contract names it.
pub const BEATS: &str = "registry.heartbeats";

/// Rows that one call of Erase deletes at most, and one statement.
const ERASE_AT_ONCE: i64 = 20_000;
const ERASE_BATCH: i64 = 2_000;

/// Ids that one broken invariant names at most.
const MAX_OFFENDERS: i64 = 50;

/// What there is of each kind.
pub type Counts = Vec<(String, i64)>;

/// Answer of Freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Whether there was anything of the subject.
    pub known: bool,
}

/// Answer of Inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Agents of which something may be in Redis.
    pub agents: BTreeSet<Uuid>,
}

/// Answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Rows deleted by this call.
    pub deleted: Counts,
    /// Agents that Redis has forgotten.
    pub forgotten: BTreeSet<Uuid>,
    /// Whether nothing is left to do.
    pub done: bool,
}

/// Answer of Verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// What is left, zeros included.
    pub residue: Counts,
    /// When it was read, by the database's clock.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Answer of Commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// When.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Answer of steps that say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// An invariant and the ids that break it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invariant {
    /// Its name.
    pub name: &'static str,
    /// Ids that break it.
    pub offenders: Vec<Uuid>,
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

    /// Stops every writer of the subject.
    pub async fn freeze(&self, step: Step) -> Result<Frozen> {
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

    /// Lets writers go on.
    pub async fn thaw(&self, step: Step) -> Result<Done> {
        match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => Ok(reply),
            Answered::Now(open) => {
                open.finish_as(&Done {}).await?;
                Ok(Done {})
            }
        }
    }

    /// What is outside Postgres: what Redis may know of the account's agents.
    pub async fn inventory(&self, step: Step) -> Result<Listed> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let reply = Listed { agents: agents(open.tx(), step).await? };
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// Has Redis forget, then deletes rows, kind by kind; what personal data the head holds goes too.
    pub async fn erase(&self, step: Step) -> Result<Erased> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let known = agents(open.tx(), step).await?;
        // No transaction is open while Redis is asked.
        open.pause().await?;
        self.forget(&known).await?;

        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
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
                return Ok(Erased { done: false, ..reply });
            }
        }
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// Reads back what is left, here and in Redis.
    pub async fn verify(&self, step: Step) -> Result<Verified> {
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
        let reply = Verified { residue: rows.chain([(BEATS.to_owned(), remembered)]).collect(), at };
        if reply.residue.iter().all(|(_, count)| *count == 0) {
            open.finish_as(&reply).await?;
        } else {
            open.found_residue().await?;
        }
        Ok(reply)
    }

    /// Deletes the head: the tombstone alone stays.
    pub async fn commit(&self, step: Step) -> Result<Committed> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        if let Subject::Account { account } = step.subject {
            erasure::delete_head(open.tx(), account).await?;
        }
        let at = self.clock.now();
        let act = Act {
            act: match step.subject.kind() {
                SubjectKind::Session => "session.erased",
                SubjectKind::Account => "account.erased",
            },
            subject: SubjectHash::of(&step.subject.kind().to_string(), step.subject.id()),
            generation: step.epoch,
            principal_id: PURGE,
            at,
        };
        audit::record(open.tx(), &act).await?;
        let reply = Committed { at };
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// Subjects that are not erased.
    pub async fn list(&self, size: u32, token: &str) -> Result<Page<Subject>> {
        let after = page::cursor::<(bool, Uuid)>(SUBJECTS, token)?;
        let after = after
            .map(|(session, id)| (if session { SubjectKind::Session } else { SubjectKind::Account }, id));
        let mut db = self.pool.acquire().await?;
        let rows = custody::list(&mut db, after, i64::from(size) + 1).await?;
        Ok(Page::cut(SUBJECTS, rows, size, |last| (last.kind() == SubjectKind::Session, last.id())))
    }

    /// Runs the custody invariants.
    pub async fn check_invariants(&self) -> Result<Vec<Invariant>> {
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
