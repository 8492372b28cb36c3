//! chat-svc's half of an erasure: what it holds of a subject, how that is stopped, deleted and read back.
//!
//! Who may still write, which step may follow which, and that a step is answered the same again is
//! [`svc_core::custody`]'s part. Answers are stored as records, not as the contract has them.

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Answered, Step,
        custodian::{self, Committed, Counts, Description, Done, Frozen, Invariant, Object, Verified},
    },
    data::pg::{Pool, Subject, Tx},
    run::clock::SharedClock,
};

use super::{
    ending::{self, Ended},
    notice::Notices,
};
use crate::{
    domain::turn::{CancelCause, Input},
    error::{Error, Result},
    journal::Journal,
    store::{
        erasure::{self, Kind, SURVIVOR, Scope},
        sessions, turns,
    },
};

/// Rows that one call of Erase deletes at most: a call ends well before its caller's patience does.
const ERASE_AT_ONCE: i64 = 20_000;

/// Rows that one statement deletes.
const ERASE_BATCH: i64 = 2_000;

/// Ids that one broken invariant names at most.
const MAX_OFFENDERS: i64 = 50;

/// Answer of Erase, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows deleted by this call.
    deleted: Counts,
    /// Whether nothing is left to do.
    done: bool,
}

impl From<Erased> for custodian::Erased {
    fn from(Erased { deleted, done }: Erased) -> Self {
        Self { deleted, objects: Vec::new(), done }
    }
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
}

impl custodian::Custodian for Custodian {
    type Error = Error;

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn describe(&self) -> Description {
        Description {
            kinds: erased_kinds().map(|kind| kind.name().to_owned()).collect(),
            survivors: vec![SURVIVOR.to_owned()],
        }
    }

    /// Stops every writer of the subject and ends its turns.
    async fn freeze(&self, step: Step) -> Result<Frozen> {
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

    /// Nothing of it is outside Postgres.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        custodian::answer(&self.pool, step, Done {}).await?;
        Ok(Vec::new())
    }

    /// Deletes rows, kind by kind; what personal data the head holds goes too.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(Erased::into(reply)),
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
                return Ok(Erased { deleted, done: false }.into());
            }
        }
        let reply = Erased { deleted, done: true };
        open.finish_as(&reply).await?;
        Ok(reply.into())
    }

    /// Reads back what is left.
    async fn verify(&self, step: Step) -> Result<Verified> {
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
        Ok(open.finish_verify(residue, at).await?)
    }

    /// Deletes the heads: the tombstone alone stays.
    async fn commit(&self, step: Step) -> Result<Committed> {
        let mut open = match custody::begin_as(&self.pool, step).await? {
            Answered::Before(reply) => return Ok(reply),
            Answered::Now(open) => open,
        };
        let scope = scope(step.subject);
        while erasure::delete_some(open.tx(), Kind::Sessions, scope, ERASE_BATCH).await? > 0 {}
        Ok(open.finish_commit(self.clock.now()).await?)
    }

    /// Runs the custody invariants.
    async fn check_invariants(&self) -> Result<Vec<Invariant>> {
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
}

impl Custodian {
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
}

/// Kinds that Erase deletes and Verify counts. The head goes at Commit.
pub fn erased_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Sessions)
}

fn scope(subject: Subject) -> Scope {
    Scope { account_id: subject.account(), session_id: subject.session() }
}
