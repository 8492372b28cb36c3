//! chat-svc's half of an erasure: what it holds of a subject, how that is stopped, deleted and read back.
//!
//! Who may still write, which step may follow which, and that a step is answered the same again is
//! [`svc_core::custody`]'s part. Answers are stored as this module's own records.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use svc_core::{
    audit::{self, SubjectHash},
    clock::SharedClock,
    custody::{self, Answered, Step},
    page::{self, Page},
    pg::{Pool, Subject, SubjectKind, Tx},
};
use uuid::Uuid;

use super::{
    ending::{self, Ended},
    notice::Notices,
};
use crate::{
    domain::turn::{CancelCause, Input},
    error::Result,
    journal::Journal,
    store::{
        erasure::{self, Kind, Scope},
        sessions, turns,
    },
};

const SUBJECTS: &str = "chat.subjects";

/// Rows that one call of Erase deletes at most: a call ends well before its caller's patience does.
const ERASE_AT_ONCE: i64 = 20_000;

/// Rows that one statement deletes.
const ERASE_BATCH: i64 = 2_000;

/// Ids that one broken invariant names at most.
const MAX_OFFENDERS: i64 = 50;

/// Rows by kind.
pub type Counts = Vec<(String, i64)>;

/// Answer of Freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Whether there was anything of the subject.
    pub known: bool,
}

/// Answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Rows deleted by this call.
    pub deleted: Counts,
    /// Whether nothing is left to do.
    pub done: bool,
}

/// Answer of Verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Rows left, zeros included.
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
    journal: Journal,
    notices: Notices,
}

impl Custodian {
    /// A custodian of everything in `pool`.
    #[must_use]
    pub fn new(pool: Pool, clock: SharedClock, journal: Journal, notices: Notices) -> Self {
        Self { pool, clock, journal, notices }
    }

    /// Stops every writer of the subject and ends its turns.
    pub async fn freeze(&self, step: Step) -> Result<Frozen> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        let known = erasure::exists(open.tx(), scope).await?;
        let ended = self.end_turns(open.tx(), scope).await?;
        let reply = Frozen { known };
        open.finish_as(&reply).await?;
        for Ended { turn, events, .. } in ended {
            self.notices.turn_ended(turn.id, None);
            self.journal.announce(turn.id, events);
        }
        Ok(reply)
    }

    /// Lets writers go on.
    pub async fn thaw(&self, step: Step) -> Result<Done> {
        self.answer(step, Done {}).await
    }

    /// What is outside Postgres: nothing yet.
    pub async fn inventory(&self, step: Step) -> Result<Done> {
        self.answer(step, Done {}).await
    }

    /// Deletes rows, kind by kind; what personal data the head holds goes too.
    pub async fn erase(&self, step: Step) -> Result<Erased> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        erasure::blank_heads(open.tx(), scope).await?;
        let mut left = ERASE_AT_ONCE;
        let mut deleted = Counts::new();
        for kind in erased_kinds() {
            let mut count = 0;
            loop {
                let batch = ERASE_BATCH.min(left);
                let gone = erasure::delete_some(open.tx(), kind, scope, batch).await?;
                let gone = i64::try_from(gone).unwrap_or(batch);
                count += gone;
                left -= gone;
                if gone < batch || left == 0 {
                    break;
                }
            }
            deleted.push((kind.name().to_owned(), count));
            if left == 0 {
                open.pause().await?;
                return Ok(Erased { deleted, done: false });
            }
        }
        let reply = Erased { deleted, done: true };
        open.finish_as(&reply).await?;
        Ok(reply)
    }

    /// Reads back what is left.
    pub async fn verify(&self, step: Step) -> Result<Verified> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let (counts, at) = erasure::count(open.tx(), scope(step.subject)).await?;
        let residue: Counts = counts
            .into_iter()
            .filter(|(kind, _)| *kind != Kind::Sessions)
            .map(|(kind, count)| (kind.name().to_owned(), count))
            .collect();
        let reply = Verified { residue, at };
        if reply.residue.iter().all(|(_, count)| *count == 0) {
            open.finish_as(&reply).await?;
        } else {
            open.found_residue().await?;
        }
        Ok(reply)
    }

    /// Deletes the heads: the tombstone alone stays.
    pub async fn commit(&self, step: Step) -> Result<Committed> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        while erasure::delete_some(open.tx(), Kind::Sessions, scope, ERASE_BATCH).await? > 0 {}
        let at = self.clock.now();
        let act = audit::Act {
            act: match step.subject.kind() {
                SubjectKind::Session => "session.erased",
                SubjectKind::Account => "account.erased",
            },
            subject: SubjectHash::of(&step.subject.kind().to_string(), step.subject.id()),
            generation: step.epoch,
            principal_id: "purge-svc",
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
                name: "no_event_without_its_turn",
                offenders: erasure::list_orphan_events(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "nothing_of_an_erased_subject",
                offenders: erasure::list_erased_with_rows(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_open_turn_of_a_frozen_subject",
                offenders: erasure::list_open_of_frozen(&mut db, MAX_OFFENDERS).await?,
            },
        ])
    }

    async fn end_turns(&self, tx: &mut Tx, scope: Scope) -> Result<Vec<Ended>> {
        let mut ended = Vec::new();
        for id in turns::list_open_of(tx, scope.account_id, scope.session_id).await? {
            let Some(turn) = turns::lock(tx, scope.account_id, id).await? else { continue };
            if turn.standing.status.is_final() {
                continue;
            }
            let cause = Input::Cancel(CancelCause::Erased);
            ended.push(ending::end(tx, &turn, cause, None, None, self.clock.now()).await?);
        }
        if let Some(session) = scope.session_id {
            sessions::touch(tx, scope.account_id, session, self.clock.now()).await?;
        }
        Ok(ended)
    }

    async fn answer<T: Serialize + DeserializeOwned + Sync>(&self, step: Step, reply: T) -> Result<T> {
        match custody::begin_as(&self.pool, step).await? {
            Answered::Before(before) => Ok(before),
            Answered::Now(open) => {
                open.finish_as(&reply).await?;
                Ok(reply)
            }
        }
    }
}

/// Kinds that Erase deletes and Verify counts. The head goes at Commit.
pub fn erased_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Sessions)
}

fn scope(subject: Subject) -> Scope {
    Scope { account_id: subject.account(), session_id: subject.session() }
}
