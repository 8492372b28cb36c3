//! Reads and writes of a worker that runs a turn. Every claim raises the turn's epoch, and a write with an
//! older epoch is refused.
//!
//! A write is one transaction: it locks the session's custody rows, checks under the lock on the turn's row
//! that the turn is running with this worker's epoch, writes the change with the events that show it, and
//! commits. Only then are the events published. Events that change no other row (deltas, the start of a step)
//! go through the [`TurnLog`], which is flushed before each such transaction, so that sequence numbers stay
//! in order.

use std::time::Instant;

use svc_core::{
    data::pg::{self, Pool, Tx},
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
        message::{self, History, Message, Part, Role, StoredMessage},
        tool_call::{CallKey, JournaledCall, ToolCallState},
        tools::Rendered,
        turn::{FailCause, Turn},
        usage::{Attempt, Usage},
    },
    error::{Error, Result},
    journal::{Fenced, Journal, TurnLog},
    store::{events, messages, sessions, tool_calls, turns},
};

/// Messages of earlier turns that one statement reads.
const HISTORY_PAGE: i64 = 50;

/// Why a run ends without an answer.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The turn was claimed again or is final: the worker has nothing left to do.
    Fenced,
    /// This process stops; another process continues the turn.
    HandOver,
    /// The turn fails. `spent` is the usage of the open attempt at a model call, if the upstream reported it.
    Failed { cause: FailCause, spent: Option<Usage> },
    /// This worker cannot continue; another worker may.
    Broken(Error),
}

impl From<Fenced> for RunError {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        match error {
            // The turn is no longer this worker's: an erasure ended it when it froze the session, or the turn
            // was claimed again.
            Error::Pg(
                pg::Error::SubjectFrozen(_) | pg::Error::SubjectNotFound { .. } | pg::Error::Fenced(_),
            ) => Self::Fenced,
            other => Self::Broken(other),
        }
    }
}

impl From<pg::Error> for RunError {
    fn from(error: pg::Error) -> Self {
        Error::Pg(error).into()
    }
}

impl From<FailCause> for RunError {
    fn from(cause: FailCause) -> Self {
        Self::Failed { cause, spent: None }
    }
}

/// State of a turn when a worker starts to run it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The conversation before the turn.
    pub history: Vec<Message>,
    /// The turn's own messages: its input and its committed steps.
    pub own: Vec<StoredMessage>,
    /// The step that was started last.
    pub open: OpenStep,
    /// The session's named list of models.
    pub route: String,
}

/// Dependencies of every run; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    pub pool: Pool,
    pub clock: SharedClock,
    pub journal: Journal,
    pub notices: Notices,
    /// Cancelled when this process stops.
    pub stopping: CancellationToken,
}

/// A turn that a worker of this process runs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) deps: Runs,
    pub(super) turn: Turn,
    pub(super) log: TurnLog,
    /// Cancelled once the turn was claimed again or is final, or its events cannot be stored.
    pub(super) fenced: CancellationToken,
    pub(super) deadline: Instant,
}

impl Run {
    /// The turn as it was claimed.
    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until the run must stop, and returns why.
    pub(crate) async fn interrupted(&self) -> RunError {
        tokio::select! {
            biased;
            () = self.fenced.cancelled() => RunError::Fenced,
            () = self.deps.stopping.cancelled() => RunError::HandOver,
            () = tokio::time::sleep_until(self.deadline.into()) => FailCause::DeadlineExceeded.into(),
        }
    }

    /// Reads the state from which the worker starts.
    pub(crate) async fn load(&self) -> Result<Loaded, RunError> {
        let turn = &self.turn;
        let history = self.history().await?;
        let mut db = self.deps.pool.acquire().await?;
        // A session that is missing was erased together with its turns.
        let session =
            sessions::find(&mut db, turn.account_id, turn.session_id).await?.ok_or(RunError::Fenced)?;
        let own = messages::list_of_turn(&mut db, turn.account_id, turn.id).await?;
        let open = OpenStep::read(&events::list_last_step(&mut db, turn.id).await?);
        Ok(Loaded { history, own, open, route: session.route })
    }

    /// Reads the session's messages before the turn, within the limits of [`History`].
    async fn history(&self) -> Result<Vec<Message>, pg::Error> {
        let turn = &self.turn;
        let mut db = self.deps.pool.acquire().await?;
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

    /// Appends an event that needs no transaction. Waits while the journal's queue is full.
    pub(crate) async fn show(&self, event: TurnEvent) -> Result<(), RunError> {
        Ok(self.log.append(event).await?)
    }

    /// Returns the open step as clients have seen it.
    pub(crate) async fn open_step(&self) -> Result<OpenStep, RunError> {
        self.log.flush().await?;
        let mut db = self.deps.pool.acquire().await?;
        Ok(OpenStep::read(&events::list_last_step(&mut db, self.turn.id).await?))
    }

    /// Commits a step that calls tools: its message, its usage, and the intent of every call.
    pub(crate) async fn commit_step(&self, step: &Answer) -> Result<Vec<JournaledCall>, RunError> {
        let now = self.deps.clock.now();
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
        let stored = StoredMessage {
            message,
            model: step.model.clone(),
            finish_reason: step.finish.as_str().to_owned(),
            ..ending::message_of(&self.turn, MessageId::new(), step.step, Role::Assistant, now)
        };
        messages::insert(&mut tx, &stored).await?;
        let (account, session) = (self.turn.account_id, self.turn.session_id);
        tool_calls::insert_intents(&mut tx, account, session, &calls, now).await?;
        let attempt = step.attempt_of(&self.turn);
        let mut shown = vec![ending::record_usage(&mut tx, &attempt, now).await?];
        shown.extend(calls.iter().map(call_event));
        let stored = events::insert(&mut tx, self.turn.id, last_seq, &shown).await?;
        tx.commit().await?;
        self.log.committed(stored);
        Ok(calls)
    }

    /// Records the usage of a failed attempt, and shows `follow`, the reset or splice of the open step, if
    /// any.
    pub(crate) async fn give_up_attempt(
        &self,
        attempt: &Attempt,
        follow: Option<TurnEvent>,
    ) -> Result<(), RunError> {
        let last_seq = self.log.flush().await?;
        let mut tx = self.begin(Progress::No).await?;
        let mut shown = vec![ending::record_usage(&mut tx, attempt, self.deps.clock.now()).await?];
        shown.extend(follow);
        let stored = events::insert(&mut tx, self.turn.id, last_seq, &shown).await?;
        tx.commit().await?;
        self.log.committed(stored);
        Ok(())
    }

    /// Returns the calls of a committed step.
    pub(crate) async fn calls(&self, step: i32) -> Result<Vec<JournaledCall>, RunError> {
        let mut db = self.deps.pool.acquire().await?;
        Ok(tool_calls::list(&mut db, self.turn.account_id, self.turn.id, step).await?)
    }

    /// Journals that the call is about to be sent to `sandbox_id`.
    pub(crate) async fn dispatch(
        &self,
        call: &mut JournaledCall,
        sandbox_id: SandboxId,
    ) -> Result<(), RunError> {
        let dispatches = call.dispatches + 1;
        let mut tx = self.begin(Progress::No).await?;
        tool_calls::mark_dispatched(&mut tx, &call.key, dispatches, sandbox_id, self.deps.clock.now())
            .await?;
        tx.commit().await?;
        call.dispatches = dispatches;
        call.sandbox_id = Some(sandbox_id);
        call.state = ToolCallState::Dispatched;
        Ok(())
    }

    /// Journals the result of the call, and shows it.
    pub(crate) async fn finish_call(
        &self,
        call: &mut JournaledCall,
        result: Rendered,
    ) -> Result<(), RunError> {
        let result = Rendered { content: result.content.replace('\0', "\u{fffd}"), ..result };
        let last_seq = self.log.flush().await?;
        let mut tx = self.begin(Progress::Yes).await?;
        tool_calls::finish(&mut tx, &call.key, &result, self.deps.clock.now()).await?;
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

    /// Commits the message with a step's tool results, which completes the step.
    pub(crate) async fn commit_results(
        &self,
        step: i32,
        calls: &[JournaledCall],
    ) -> Result<Message, RunError> {
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
        let mut stored =
            ending::message_of(&self.turn, MessageId::new(), step, Role::Tool, self.deps.clock.now());
        stored.message = message.clone();
        let mut tx = self.begin(Progress::Yes).await?;
        messages::insert(&mut tx, &stored).await?;
        tx.commit().await?;
        Ok(message)
    }

    /// Begins a transaction, locks the turn's row in it, and checks that the turn is running with this
    /// worker's epoch.
    async fn begin(&self, progress: Progress) -> Result<Tx, RunError> {
        let turn = &self.turn;
        let mut tx = Tx::for_subject(&self.deps.pool, turn.subject()).await?;
        let epoch = turn.standing.epoch;
        let held = match progress {
            Progress::Yes => turns::advance(&mut tx, turn.id, epoch).await?,
            Progress::No => turns::hold(&mut tx, turn.id, epoch).await?,
        };
        if held { Ok(tx) } else { Err(RunError::Fenced) }
    }
}

/// Whether a write is progress, which resets the turn's count of claims without progress.
#[derive(Debug, Clone, Copy)]
enum Progress {
    Yes,
    No,
}

fn call_event(journaled: &JournaledCall) -> TurnEvent {
    TurnEvent::ToolCall {
        step: journaled.key.step,
        call: journaled.key.call,
        call_id: journaled.call.id.clone(),
        name: journaled.call.name.clone(),
        // The model client has refused arguments that are not one JSON object, so they can be parsed.
        arguments: serde_json::from_str(&journaled.call.arguments).unwrap_or(serde_json::Value::Null),
    }
}
