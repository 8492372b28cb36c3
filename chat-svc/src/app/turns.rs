//! Turns: accepting inputs, looking, canceling, reading events. Running them is the workers' part.

use std::time::Duration;

use chrono::TimeDelta;
use svc_core::{
    data::{
        idempotency::{Begin, Once},
        pg::{Pool, Subject, Tx},
    },
    id::{AccountId, MessageId, SessionId, TurnId},
    run::{clock::SharedClock, telemetry},
    wire::{
        error::Invalid,
        page::{self, Page},
    },
};
use uuid::Uuid;

use super::{
    ending::{self, Ended},
    notice::Notices,
};
use crate::{
    domain::{
        event::Cursor,
        message::{Message, Role},
        session::{self, Admission},
        turn::{CancelCause, Input, Standing, TurnStatus},
    },
    error::{Entity, Error, Result},
    journal::{Journal, Reader},
    store::{
        Slice, messages, sessions,
        turns::{self, Turn},
    },
};

const TURNS: &str = "chat.turns";

/// The request field that takes a cursor.
const CURSOR_FIELD: &str = "last_event_id";

/// Limits of turns.
#[derive(Debug, Clone, Copy)]
pub struct TurnLimits {
    /// Time from acceptance to the deadline.
    pub deadline: Duration,
    /// Turns of a session that are not final, at most.
    pub max_open: usize,
}

/// Use cases of turns.
#[derive(Debug, Clone)]
pub struct Turns {
    pool: Pool,
    clock: SharedClock,
    journal: Journal,
    notices: Notices,
    limits: TurnLimits,
}

impl Turns {
    /// Turns whose events are in `journal`.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        journal: Journal,
        notices: Notices,
        limits: TurnLimits,
    ) -> Self {
        Self { pool, clock, journal, notices, limits }
    }

    /// Accepts an input as a turn, as the session's policy says.
    pub async fn create(
        &self,
        account_id: AccountId,
        session_id: SessionId,
        input: String,
        once: &Once,
    ) -> Result<Turn> {
        let subject = Subject::Session { account: account_id, session: session_id };
        let mut tx = Tx::for_subject(&self.pool, subject).await?;
        let slot = match once.begin::<TurnId>(&mut tx, Some(account_id)).await? {
            Begin::First(slot) => slot,
            Begin::Replay(id) => {
                tx.rollback().await?;
                return self.get(account_id, id).await;
            }
        };
        let now = self.clock.now();
        // The session's row before any turn's: everybody who takes both takes them in this order.
        let (policy, ordinal) = sessions::next_ordinal(&mut tx, account_id, session_id, now)
            .await?
            .ok_or(Error::NotFound(Entity::Session))?;
        let open = turns::list_open(&mut tx, session_id).await?;
        let mut interrupted = Vec::new();
        match session::admit(policy, &open, self.limits.max_open) {
            Admission::Accept => {}
            Admission::InFlight => return Err(Error::TurnInFlight),
            Admission::QueueFull => return Err(Error::QueueFull),
            Admission::Interrupt(ids) => {
                for id in ids {
                    let cause = Input::Cancel(CancelCause::Interrupted);
                    interrupted.extend(self.end_open(&mut tx, account_id, id, cause).await?);
                }
            }
        }
        let deadline = TimeDelta::from_std(self.limits.deadline)
            .map_err(|_| Error::Inconsistent("the deadline is beyond all time"))?;
        let turn = Turn {
            id: TurnId::new(),
            account_id,
            session_id,
            ordinal,
            standing: Standing {
                status: TurnStatus::Queued,
                epoch: 0,
                generation: 0,
                attempts: 0,
                barren_claims: 0,
                started_at: None,
                ended_at: None,
                deadline_at: now + deadline,
            },
            cause: String::new(),
            traceparent: telemetry::traceparent(&tracing::Span::current()),
            created_at: now,
            last_seq: 0,
        };
        turns::insert(&mut tx, &turn).await?;
        let mut said = ending::message_of(&turn, MessageId::new(), 0, Role::User, now);
        said.message = Message::user(input);
        messages::insert(&mut tx, &said).await?;
        slot.of_session(session_id).finish(&mut tx, &turn.id).await?;
        tx.commit().await?;
        for ended in interrupted {
            self.tell(ended);
        }
        self.notices.turn_waits(turn.id);
        Ok(turn)
    }

    /// One turn.
    pub async fn get(&self, account_id: AccountId, id: TurnId) -> Result<Turn> {
        let mut db = self.pool.acquire().await?;
        turns::find(&mut db, account_id, id).await?.ok_or(Error::NotFound(Entity::Turn))
    }

    /// A session's turns, newest first.
    pub async fn list(
        &self,
        account_id: AccountId,
        session_id: SessionId,
        size: u32,
        token: &str,
    ) -> Result<Page<Turn>> {
        let slice = Slice { after: page::cursor::<Uuid>(TURNS, token)?, size };
        let mut db = self.pool.acquire().await?;
        sessions::find(&mut db, account_id, session_id).await?.ok_or(Error::NotFound(Entity::Session))?;
        let rows = turns::list(&mut db, account_id, session_id, &slice).await?;
        Ok(Page::cut(TURNS, rows, size, |last| last.id))
    }

    /// Cancels a turn, whoever runs it. Canceling it again changes nothing.
    pub async fn cancel(&self, account_id: AccountId, id: TurnId) -> Result<Turn> {
        let turn = self.get(account_id, id).await?;
        match turn.standing.status {
            TurnStatus::Canceled => return Ok(turn),
            status @ (TurnStatus::Completed | TurnStatus::Failed) => return Err(Error::TurnFinal(status)),
            TurnStatus::Queued | TurnStatus::Running => {}
        }
        let subject = Subject::Session { account: account_id, session: turn.session_id };
        let mut tx = Tx::for_subject(&self.pool, subject).await?;
        sessions::touch(&mut tx, account_id, turn.session_id, self.clock.now()).await?;
        let ended = self.end_open(&mut tx, account_id, id, Input::Cancel(CancelCause::User)).await?;
        tx.commit().await?;
        match ended {
            Some(ended) => {
                let turn = ended.turn.clone();
                self.tell(ended);
                Ok(turn)
            }
            // It became final while we came.
            None => match self.get(account_id, id).await? {
                turn if turn.standing.status == TurnStatus::Canceled => Ok(turn),
                turn => Err(Error::TurnFinal(turn.standing.status)),
            },
        }
    }

    /// A reader of the turn's events after the one that `last_event_id` names (empty: from the beginning).
    pub async fn read(&self, account_id: AccountId, id: TurnId, last_event_id: &str) -> Result<Reader> {
        let turn = self.get(account_id, id).await?;
        let cursor = Cursor::parse(CURSOR_FIELD, last_event_id, id)?;
        if cursor.seq > turn.last_seq {
            return Err(Invalid::new(CURSOR_FIELD, "is ahead of the turn's events").into());
        }
        Ok(self.journal.reader(id, cursor.seq))
    }

    /// Ends a turn that may have become final meanwhile; `None` then.
    async fn end_open(
        &self,
        tx: &mut Tx,
        account_id: AccountId,
        id: TurnId,
        input: Input,
    ) -> Result<Option<Ended>> {
        let turn = turns::lock(tx, account_id, id).await?.ok_or(Error::NotFound(Entity::Turn))?;
        if turn.standing.status.is_final() {
            return Ok(None);
        }
        Ok(Some(ending::end(tx, &turn, input, None, None, self.clock.now()).await?))
    }

    fn tell(&self, ended: Ended) {
        self.notices.turn_ended(ended.turn.id, ended.next);
        self.journal.announce(ended.turn.id, ended.events);
    }
}
