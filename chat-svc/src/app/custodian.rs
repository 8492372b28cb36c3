//! chat-svc's part of an erasure: it stops a subject's turns, deletes the subject's rows, and counts those
//! left. A subject is an account or one session.
//!
//! [`svc_core::custody`] decides which writers and steps are allowed, and replays the answers of repeated
//! steps. Answers are stored in types such as `Erased`, not as messages of the contract.

use serde::{Deserialize, Serialize};
use svc_core::{
    custody::{
        self, Step,
        custodian::{self, Committed, Counts, Description, Done, Frozen, Invariant, Object, Verified},
    },
    data::pg::{Pool, Tx},
    run::clock::SharedClock,
    subject::Subject,
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
        erasure::{self, SURVIVOR, TABLES},
        sessions, turns,
    },
};

/// Maximum ids that one broken invariant names.
const MAX_OFFENDERS: i64 = 50;

/// Stored answer of Erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Erased {
    /// Rows that this call deleted.
    deleted: Counts,
    /// Whether nothing is left to delete.
    done: bool,
}

/// Use cases of an erasure.
#[derive(Debug, Clone)]
pub(crate) struct Custodian {
    pool: Pool,
    clock: SharedClock,
    journal: Journal,
    notices: Notices,
}

impl Custodian {
    pub(crate) fn new(pool: Pool, clock: SharedClock, journal: Journal, notices: Notices) -> Self {
        Self { pool, clock, journal, notices }
    }

    async fn end_turns(&self, tx: &mut Tx, subject: Subject) -> Result<Vec<Ended>> {
        let account = subject.account();
        let mut ended = Vec::new();
        for id in turns::list_open_of(tx, account, subject.session()).await? {
            let Some(turn) = turns::lock(tx, account, id).await? else { continue };
            if turn.standing.status.is_final() {
                continue;
            }
            let cause = Input::Cancel(CancelCause::Erased);
            ended.push(ending::end(tx, &turn, cause, None, None, self.clock.now()).await?);
        }
        if let Some(session) = subject.session() {
            sessions::touch(tx, account, session, self.clock.now()).await?;
        }
        Ok(ended)
    }
}

impl custodian::Custodian for Custodian {
    type Error = Error;

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn describe(&self) -> Description {
        Description {
            kinds: TABLES.kinds().map(str::to_owned).collect(),
            survivors: vec![SURVIVOR.to_owned()],
        }
    }

    /// Stops every writer of the subject and ends its turns.
    async fn freeze(&self, step: Step) -> Result<Frozen> {
        custody::step(&self.pool, step, async |mut open| {
            let known = TABLES.any(open.tx(), step.subject).await?;
            let ended = self.end_turns(open.tx(), step.subject).await?;
            let reply = open.answer(Frozen { known }).await?;
            for Ended { turn, events, .. } in ended {
                self.notices.turn_ended(turn.id, None);
                self.journal.announce(turn.id, events);
            }
            Ok(reply)
        })
        .await
    }

    /// Returns no objects, because chat-svc keeps nothing outside Postgres.
    async fn inventory(&self, step: Step) -> Result<Vec<Object>> {
        custodian::answer(&self.pool, step, Done {}).await?;
        Ok(Vec::new())
    }

    /// Blanks the titles of the subject's sessions, and deletes a limited number of rows, table by table. The
    /// caller must repeat the step until `done`.
    async fn erase(&self, step: Step) -> Result<custodian::Erased> {
        let Erased { deleted, done } = custody::step(&self.pool, step, async |mut open| {
            erasure::blank_heads(open.tx(), step.subject).await?;
            let mut deleted = Counts::new();
            if TABLES.delete(open.tx(), step.subject, &mut deleted).await? {
                return Ok::<_, Error>(open.answer(Erased { deleted, done: true }).await?);
            }
            open.pause().await?;
            Ok(Erased { deleted, done: false })
        })
        .await?;
        Ok(custodian::Erased { deleted, objects: Vec::new(), done })
    }

    /// Counts the rows that are left.
    async fn verify(&self, step: Step) -> Result<Verified> {
        custody::step(&self.pool, step, async |mut open| {
            let (residue, at) = TABLES.count(open.tx(), step.subject).await?;
            Ok(open.finish_verify(residue, at).await?)
        })
        .await
    }

    /// Deletes the rows of the subject's sessions. Its custody row and its usage ledger stay.
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
                name: "no_event_without_its_turn",
                offenders: erasure::list_orphan_events(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "nothing_of_an_erased_subject",
                offenders: TABLES.leftovers(&mut db, MAX_OFFENDERS).await?,
            },
            Invariant {
                name: "no_open_turn_of_a_frozen_subject",
                offenders: erasure::list_open_of_frozen(&mut db, MAX_OFFENDERS).await?,
            },
        ])
    }
}
