//! Turns: accepts inputs, lists and cancels turns, reads their events. Workers run them.

use chrono::{DateTime, TimeDelta, Utc};
use svc_core::{
    data::{
        idempotency::{Begin, Once},
        pg::{Pool, Tx},
    },
    error::Invalid,
    id::{AccountId, MessageId, SessionId, TurnId},
    run::{clock::SharedClock, telemetry},
    subject::Subject,
    wire::page::{self, Page},
};

use super::{
    ending::{self, Ended},
    notice::Notices,
};
use crate::{
    domain::{
        event::Cursor,
        message::{Message, Role},
        session::{self, Admission, InputPolicy},
        settings::TurnsConfig,
        turn::{CancelCause, Input, Standing, Turn, TurnStatus},
    },
    error::{Entity, Error, Result},
    journal::{Journal, Reader},
    store::{messages, sessions, turns},
};

const TURNS: &str = "chat.turns";

/// Name of the request field that holds a cursor.
const CURSOR_FIELD: &str = "last_event_id";

/// Use cases of turns.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    pub pool: Pool,
    pub clock: SharedClock,
    pub journal: Journal,
    pub notices: Notices,
    pub limits: TurnsConfig,
}

impl Turns {
    /// Accepts an input as a turn, according to the session's policy.
    pub(crate) async fn create(
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
        // The lock order is the session's row before the row of any turn.
        let (policy, ordinal) = sessions::next_ordinal(&mut tx, account_id, session_id, now)
            .await?
            .ok_or(Error::NotFound(Entity::Session))?;
        let interrupted = self.admit(&mut tx, account_id, session_id, policy).await?;
        let turn = self.queued(account_id, session_id, ordinal, now)?;
        turns::insert(&mut tx, &turn).await?;
        let mut message = ending::message_of(&turn, MessageId::new(), 0, Role::User, now);
        message.message = Message::user(input);
        messages::insert(&mut tx, &message).await?;
        slot.of_session(session_id).finish(&mut tx, &turn.id).await?;
        tx.commit().await?;
        for ended in interrupted {
            self.publish(ended);
        }
        self.notices.turn_waits(turn.id);
        Ok(turn)
    }

    /// Applies the session's policy to a new input. Returns the turns that the input ended.
    async fn admit(
        &self,
        tx: &mut Tx,
        account_id: AccountId,
        session_id: SessionId,
        policy: InputPolicy,
    ) -> Result<Vec<Ended>> {
        let open = turns::list_open(tx, session_id).await?;
        let mut interrupted = Vec::new();
        match session::admit(policy, &open, self.limits.max_open) {
            Admission::Accept => {}
            Admission::InFlight => return Err(Error::TurnInFlight),
            Admission::QueueFull => return Err(Error::QueueFull),
            Admission::Interrupt(ids) => {
                for id in ids {
                    let cause = Input::Cancel(CancelCause::Interrupted);
                    interrupted.extend(self.end_open(tx, account_id, id, cause).await?);
                }
            }
        }
        Ok(interrupted)
    }

    fn queued(
        &self,
        account_id: AccountId,
        session_id: SessionId,
        ordinal: i64,
        now: DateTime<Utc>,
    ) -> Result<Turn> {
        let deadline = TimeDelta::from_std(self.limits.deadline)
            .map_err(|_| Error::Inconsistent("the deadline is out of range"))?;
        Ok(Turn {
            id: TurnId::new(),
            account_id,
            session_id,
            ordinal,
            standing: Standing {
                status: TurnStatus::Queued,
                epoch: 0,
                generation: 0,
                attempts: 0,
                no_progress_claims: 0,
                started_at: None,
                ended_at: None,
                deadline_at: now + deadline,
            },
            cause: String::new(),
            traceparent: telemetry::traceparent(&tracing::Span::current()),
            created_at: now,
            last_seq: 0,
        })
    }

    pub(crate) async fn get(&self, account_id: AccountId, id: TurnId) -> Result<Turn> {
        let mut db = self.pool.acquire().await?;
        turns::find(&mut db, account_id, id).await?.ok_or(Error::NotFound(Entity::Turn))
    }

    /// Lists a session's turns, newest first.
    pub(crate) async fn list(
        &self,
        account_id: AccountId,
        session_id: SessionId,
        status: Option<TurnStatus>,
        size: u32,
        token: &str,
    ) -> Result<Page<Turn>> {
        let after = page::cursor(TURNS, token)?;
        let mut db = self.pool.acquire().await?;
        sessions::find(&mut db, account_id, session_id).await?.ok_or(Error::NotFound(Entity::Session))?;
        let rows = turns::list(&mut db, account_id, session_id, status, after, i64::from(size) + 1).await?;
        Ok(Page::cut(TURNS, rows, size, |last| last.id))
    }

    /// Cancels a turn, queued or running. Canceling it again changes nothing.
    pub(crate) async fn cancel(&self, account_id: AccountId, id: TurnId, once: &Once) -> Result<Turn> {
        let turn = self.get(account_id, id).await?;
        // A final turn is answered without a transaction: if an erasure ended it, its session is frozen and
        // refuses transactions.
        match turn.standing.status {
            TurnStatus::Canceled => return Ok(turn),
            status @ (TurnStatus::Completed | TurnStatus::Failed) => return Err(Error::TurnFinal(status)),
            TurnStatus::Queued | TurnStatus::Running => {}
        }
        let mut tx = Tx::for_subject(&self.pool, turn.subject()).await?;
        let slot = match once.begin::<TurnId>(&mut tx, Some(account_id)).await? {
            Begin::First(slot) => slot,
            Begin::Replay(id) => {
                tx.rollback().await?;
                return self.get(account_id, id).await;
            }
        };
        sessions::touch(&mut tx, account_id, turn.session_id, self.clock.now()).await?;
        let Some(ended) = self.end_open(&mut tx, account_id, id, Input::Cancel(CancelCause::User)).await?
        else {
            tx.rollback().await?;
            return match self.get(account_id, id).await? {
                turn if turn.standing.status == TurnStatus::Canceled => Ok(turn),
                turn => Err(Error::TurnFinal(turn.standing.status)),
            };
        };
        slot.of_session(turn.session_id).finish(&mut tx, &id).await?;
        tx.commit().await?;
        let turn = ended.turn.clone();
        self.publish(ended);
        Ok(turn)
    }

    /// Opens a reader of the turn's events after the event `last_event_id`; empty is the beginning.
    pub(crate) async fn read(
        &self,
        account_id: AccountId,
        id: TurnId,
        last_event_id: &str,
    ) -> Result<Reader> {
        let turn = self.get(account_id, id).await?;
        let cursor = Cursor::parse(CURSOR_FIELD, last_event_id, id)?;
        if cursor.seq > turn.last_seq {
            return Err(Invalid::new(CURSOR_FIELD, "is ahead of the turn's events").into());
        }
        Ok(self.journal.reader(id, cursor.seq))
    }

    /// Returns a reader of all events of `turn`, to which the caller has already checked the access.
    pub(crate) fn read_all(&self, turn: &Turn) -> Reader {
        self.journal.reader(turn.id, 0)
    }

    /// Ends a turn; `None` if it is final already.
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

    fn publish(&self, ended: Ended) {
        self.notices.turn_ended(ended.turn.id, ended.next);
        self.journal.announce(ended.turn.id, ended.events);
    }
}
