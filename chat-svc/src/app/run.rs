//! A turn in the hands of the worker that runs it: every write it makes, each fenced by its epoch.
//!
//! A write is one transaction: it takes custody of the session, proves under the turn's row lock that this epoch
//! still runs the turn, writes what happened together with the events that show it, and commits; only then are
//! readers told. Events that commit nothing (deltas, the start of a step) go through the [`TurnLog`] and are
//! flushed before any such transaction, so that sequence numbers stay in order.

use std::time::{Duration, Instant};

use svc_core::{
    data::pg::{self, Pool, Subject, Tx},
    id::{MessageId, SandboxId},
    run::clock::SharedClock,
};
use tokio_util::sync::CancellationToken;

use super::{
    ending::{self, Answer},
    notice::Notices,
};
use crate::{
    domain::{
        event::{OpenStep, TurnEvent},
        message::{self, History, Message, Part, Role},
        step::Usage,
        tool_call::{CallKey, JournaledCall, ToolCallState},
        tools::Rendered,
        turn::{Ending, FailCause, Input, TurnStatus},
    },
    error::{Error, Result},
    journal::{Fenced, TurnLog},
    store::{events, messages, sessions, tool_calls, turns},
};

/// Messages of earlier turns that are read at once.
const HISTORY_PAGE: i64 = 50;

/// Why a worker stops running a turn before its answer.
#[derive(Debug)]
pub enum Stop {
    /// The turn is somebody else's, or final: nothing is left to do.
    Fenced,
    /// This process stops; the turn goes on elsewhere.
    HandOver,
    /// The turn fails.
    Failed {
        /// Why.
        cause: FailCause,
        /// What the open attempt at a model call cost, if the upstream said so.
        spent: Option<Usage>,
    },
    /// The worker cannot go on; the turn may, with another.
    Broken(Error),
}

impl From<Fenced> for Stop {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            // An erasure ended the turn in the transaction that froze it.
            Error::Pg(
                pg::Error::SubjectFrozen(_) | pg::Error::SubjectNotFound { .. } | pg::Error::Fenced(_),
            ) => Self::Fenced,
            other => Self::Broken(other),
        }
    }
}

impl From<pg::Error> for Stop {
    fn from(error: pg::Error) -> Self {
        Error::Pg(error).into()
    }
}

impl From<FailCause> for Stop {
    fn from(cause: FailCause) -> Self {
        Self::Failed { cause, spent: None }
    }
}

/// What a worker starts from.
#[derive(Debug)]
pub struct Loaded {
    /// The conversation before the turn.
    pub history: Vec<Message>,
    /// The turn's own messages: its input and its committed steps.
    pub own: Vec<messages::StoredMessage>,
    /// The step that was begun last.
    pub open: OpenStep,
    /// The session's named list of models.
    pub route: String,
}

/// Who tells a worker to stop.
#[derive(Debug, Clone)]
pub struct Signals {
    /// The epoch was passed.
    pub fenced: CancellationToken,
    /// This process stops.
    pub stopping: CancellationToken,
}

/// A turn in the hands of the worker that runs it.
#[derive(Debug)]
pub struct Run {
    turn: turns::Turn,
    log: TurnLog,
    pool: Pool,
    clock: SharedClock,
    notices: Notices,
    signals: Signals,
    deadline: Instant,
}

impl Run {
    /// Takes `turn`, as claimed, in hand.
    #[must_use]
    pub fn new(
        turn: turns::Turn,
        log: TurnLog,
        pool: Pool,
        clock: SharedClock,
        notices: Notices,
        signals: Signals,
    ) -> Self {
        let left = (turn.standing.deadline_at - clock.now()).to_std().unwrap_or(Duration::ZERO);
        Self { turn, log, pool, clock, notices, signals, deadline: Instant::now() + left }
    }

    /// The turn as it was claimed.
    #[must_use]
    pub fn turn(&self) -> &turns::Turn {
        &self.turn
    }

    /// When the turn fails.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for a reason to stop.
    pub async fn interrupted(&self) -> Stop {
        tokio::select! {
            biased;
            () = self.signals.fenced.cancelled() => Stop::Fenced,
            () = self.signals.stopping.cancelled() => Stop::HandOver,
            () = tokio::time::sleep_until(self.deadline.into()) => FailCause::DeadlineExceeded.into(),
        }
    }

    /// Reads what a worker starts from.
    pub async fn load(&self) -> Result<Loaded, Stop> {
        let turn = &self.turn;
        let history = self.history().await?;
        let mut db = self.pool.acquire().await?;
        // A session that is gone was erased, and its turns with it.
        let session = sessions::find(&mut db, turn.account_id, turn.session_id).await?.ok_or(Stop::Fenced)?;
        let own = messages::list_of_turn(&mut db, turn.account_id, turn.id).await?;
        let open = OpenStep::read(&events::list_last_step(&mut db, turn.id).await?);
        Ok(Loaded { history, own, open, route: session.route })
    }

    /// What the session said before the turn, as far back as there is room.
    async fn history(&self) -> Result<Vec<Message>, pg::Error> {
        let turn = &self.turn;
        let mut db = self.pool.acquire().await?;
        let (mut history, mut before) = (History::default(), None);
        loop {
            let (account, session) = (turn.account_id, turn.session_id);
            let page =
                messages::list_before(&mut db, account, session, turn.ordinal, before, HISTORY_PAGE).await?;
            let Some(last) = page.last() else { return Ok(history.finish()) };
            before = Some(last.id);
            if !page.into_iter().all(|stored| history.push(stored.message)) {
                return Ok(history.finish());
            }
        }
    }

    /// Shows an event that commits nothing. Waits while the journal's queue is full.
    pub async fn show(&self, event: TurnEvent) -> Result<(), Stop> {
        Ok(self.log.append(event).await?)
    }

    /// The open step as clients have seen it.
    pub async fn open_step(&self) -> Result<OpenStep, Stop> {
        self.log.flush().await?;
        let mut db = self.pool.acquire().await?;
        Ok(OpenStep::read(&events::list_last_step(&mut db, self.turn.id).await?))
    }

    /// Commits a step that calls tools: its message, its cost, and the intent of every call.
    pub async fn commit_step(&self, step: &Answer) -> Result<Vec<JournaledCall>, Stop> {
        let now = self.clock.now();
        let message = message::storable(step.message.clone());
        let calls: Vec<JournaledCall> = (1..)
            .zip(message.tool_calls())
            .map(|(call, made)| JournaledCall {
                key: CallKey { turn_id: self.turn.id, step: step.step, call },
                call: made.clone(),
                state: ToolCallState::Intended,
                dispatches: 0,
                sandbox_id: None,
                result: None,
            })
            .collect();
        let last_seq = self.log.flush().await?;
        let mut tx = self.begin(Progress::Yes).await?;
        let stored = messages::StoredMessage {
            message,
            model: step.model.clone(),
            finish_reason: step.finish.as_str().to_owned(),
            ..ending::message_of(&self.turn, MessageId::new(), step.step, Role::Assistant, now)
        };
        messages::insert(&mut tx, &stored).await?;
        let (account, session) = (self.turn.account_id, self.turn.session_id);
        tool_calls::insert_intents(&mut tx, account, session, &calls, now).await?;
        let attempt = (step.step, step.attempt);
        let mut shown =
            vec![ending::settle(&mut tx, &self.turn, attempt, &step.model, step.usage, now).await?];
        shown.extend(calls.iter().map(called));
        let stored = events::insert(&mut tx, self.turn.id, last_seq, &shown).await?;
        tx.commit().await?;
        self.log.committed(stored);
        Ok(calls)
    }

    /// Settles an attempt that came to nothing, and shows what follows from it for the open step.
    pub async fn give_up_attempt(
        &self,
        attempt: (i32, i32),
        model: &str,
        spent: Option<Usage>,
        follow: Option<TurnEvent>,
    ) -> Result<(), Stop> {
        let last_seq = self.log.flush().await?;
        let mut tx = self.begin(Progress::No).await?;
        let mut shown =
            vec![ending::settle(&mut tx, &self.turn, attempt, model, spent, self.clock.now()).await?];
        shown.extend(follow);
        let stored = events::insert(&mut tx, self.turn.id, last_seq, &shown).await?;
        tx.commit().await?;
        self.log.committed(stored);
        Ok(())
    }

    /// The calls of a committed step.
    pub async fn calls(&self, step: i32) -> Result<Vec<JournaledCall>, Stop> {
        let mut db = self.pool.acquire().await?;
        Ok(tool_calls::list(&mut db, self.turn.account_id, self.turn.id, step).await?)
    }

    /// Journals that the call is about to be sent to `sandbox_id`.
    pub async fn dispatch(&self, call: &mut JournaledCall, sandbox_id: SandboxId) -> Result<(), Stop> {
        let dispatches = call.dispatches + 1;
        let mut tx = self.begin(Progress::No).await?;
        tool_calls::mark_dispatched(&mut tx, &call.key, dispatches, sandbox_id, self.clock.now()).await?;
        tx.commit().await?;
        call.dispatches = dispatches;
        call.sandbox_id = Some(sandbox_id);
        call.state = ToolCallState::Dispatched;
        Ok(())
    }

    /// Journals what became of the call, and shows it.
    pub async fn finish_call(&self, call: &mut JournaledCall, result: Rendered) -> Result<(), Stop> {
        let result = Rendered { content: result.content.replace('\0', "\u{fffd}"), ..result };
        let last_seq = self.log.flush().await?;
        let mut tx = self.begin(Progress::Yes).await?;
        tool_calls::finish(&mut tx, &call.key, &result, self.clock.now()).await?;
        let shown = TurnEvent::ToolResult {
            step: call.key.step,
            call: call.key.call,
            call_id: call.call.id.clone(),
            name: call.call.name.clone(),
            content: result.content.clone(),
            is_error: result.is_error,
            in_doubt: result.in_doubt,
        };
        let stored = events::insert(&mut tx, self.turn.id, last_seq, &[shown]).await?;
        tx.commit().await?;
        self.log.committed(stored);
        call.state = ToolCallState::of(&result);
        call.result = Some(result);
        Ok(())
    }

    /// Commits the message that holds a step's results; the step is done with it.
    pub async fn commit_results(&self, step: i32, calls: &[JournaledCall]) -> Result<Message, Stop> {
        let parts = calls
            .iter()
            .filter_map(|journaled| {
                let result = journaled.result.as_ref()?;
                Some(Part::ToolResult {
                    call_id: journaled.call.id.clone(),
                    name: journaled.call.name.clone(),
                    content: result.content.clone(),
                    is_error: result.is_error,
                })
            })
            .collect();
        let message = Message { role: Role::Tool, parts };
        let mut stored = ending::message_of(&self.turn, MessageId::new(), step, Role::Tool, self.clock.now());
        stored.message = message.clone();
        let mut tx = self.begin(Progress::Yes).await?;
        messages::insert(&mut tx, &stored).await?;
        tx.commit().await?;
        Ok(message)
    }

    /// Ends the turn with its answer.
    pub async fn complete(&self, answer: &Answer) -> Result<(), Stop> {
        self.finish(Ending::Completed, Some(answer), None).await
    }

    /// Ends the turn with an error. What it said until then is kept.
    pub async fn fail(&self, cause: FailCause, spent: Option<Usage>) -> Result<(), Stop> {
        self.finish(Ending::Failed(cause), None, spent).await
    }

    /// Hands the turn over: another worker may take it at once.
    pub async fn release(&self) -> Result<(), Stop> {
        // What was shown stays, and the next worker reads it: it must be committed first.
        self.log.flush().await?;
        let mut db = self.pool.acquire().await?;
        if turns::release(&mut db, self.turn.id, self.turn.standing.epoch).await? {
            self.notices.turn_waits(self.turn.id);
        }
        Ok(())
    }

    async fn finish(
        &self,
        ending: Ending,
        answer: Option<&Answer>,
        spent: Option<Usage>,
    ) -> Result<(), Stop> {
        self.log.flush().await?;
        let turn = &self.turn;
        let subject = Subject::Session { account: turn.account_id, session: turn.session_id };
        let now = self.clock.now();
        let mut tx = Tx::for_subject(&self.pool, subject).await?;
        // The session's row before the turn's: everybody who takes both takes them in this order.
        sessions::touch(&mut tx, turn.account_id, turn.session_id, now).await?;
        let locked = turns::lock(&mut tx, turn.account_id, turn.id).await?.ok_or(Stop::Fenced)?;
        let ours =
            locked.standing.status == TurnStatus::Running && locked.standing.epoch == turn.standing.epoch;
        if !ours {
            return Err(Stop::Fenced);
        }
        let ended = ending::end(&mut tx, &locked, Input::End(ending), answer, spent, now).await?;
        svc_core::run::failpoint::hit("chat.turn.finishing").await;
        tx.commit().await?;
        self.log.committed(ended.events);
        self.notices.turn_ended(turn.id, ended.next);
        Ok(())
    }

    /// Begins a transaction that holds the turn at this epoch.
    async fn begin(&self, progress: Progress) -> Result<Tx, Stop> {
        let turn = &self.turn;
        let subject = Subject::Session { account: turn.account_id, session: turn.session_id };
        let mut tx = Tx::for_subject(&self.pool, subject).await?;
        let epoch = turn.standing.epoch;
        let held = match progress {
            Progress::Yes => turns::advance(&mut tx, turn.id, epoch).await?,
            Progress::No => turns::hold(&mut tx, turn.id, epoch).await?,
        };
        if held { Ok(tx) } else { Err(Stop::Fenced) }
    }
}

/// Whether a write gets the turn further: what does not is no reason to forgive barren claims.
#[derive(Debug, Clone, Copy)]
enum Progress {
    Yes,
    No,
}

fn called(journaled: &JournaledCall) -> TurnEvent {
    TurnEvent::ToolCall {
        step: journaled.key.step,
        call: journaled.key.call,
        call_id: journaled.call.id.clone(),
        name: journaled.call.name.clone(),
        // Clients promise one object; a text that is none was refused by the model's client.
        arguments: serde_json::from_str(&journaled.call.arguments).unwrap_or(serde_json::Value::Null),
    }
}
