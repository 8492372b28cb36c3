//! Ends turns: one transaction writes the turn's message, its usage, its last event and its status.
//!
//! The worker, a caller, a newer input and an erasure all end a turn through this module. The partial answer
//! is kept; it is read back from the journal, so it is what clients saw. A dispatched call without a result
//! gets the result "in doubt"; a call that was not dispatched gets "not carried out". Calls that may still
//! run are marked to be stopped.

use chrono::{DateTime, Utc};
use svc_core::{
    data::pg::Tx,
    id::{MessageId, TurnId},
};

use crate::{
    domain::{
        event::{OpenStep, StoredEvent, TurnEvent},
        message::{Message, NOT_CARRIED_OUT, Part, Role, StoredMessage, storable},
        step::FinishReason,
        tool_call::{JournaledCall, ToolCallState},
        tools::Outcome,
        turn::{self, Ending, Input, Turn},
        usage::{Attempt, Usage},
    },
    error::{Error, Result},
    store::{events, messages, stops, tool_calls, turns, usage},
};

/// A step that succeeded: its message is the turn's answer, or has tool calls.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Number of the step.
    pub step: i32,
    /// Number of the attempt that succeeded.
    pub attempt: i32,
    /// The model's name in the route.
    pub model: String,
    pub message: Message,
    pub finish: FinishReason,
    /// `None` if the upstream did not report it.
    pub usage: Option<Usage>,
}

impl Answer {
    pub(super) fn attempt_of(&self, turn: &Turn) -> Attempt {
        Attempt::of(turn, self.step, self.attempt, self.model.clone(), self.usage)
    }
}

/// Result of an ending. The caller publishes it after the commit.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The turn after its end.
    pub turn: Turn,
    pub events: Vec<StoredEvent>,
    /// The session's next queued turn, if any.
    pub next: Option<TurnId>,
}

/// Ends `turn`, which the transaction has locked. `answer` is given exactly if the turn completes; `spent` is
/// the usage of the open attempt, if the upstream reported it.
pub(crate) async fn end(
    tx: &mut Tx,
    turn: &Turn,
    input: Input,
    answer: Option<&Answer>,
    spent: Option<Usage>,
    now: DateTime<Utc>,
) -> Result<Ended> {
    let after = turn::next(&turn.standing, input, now).map_err(|_| Error::TurnFinal(turn.standing.status))?;
    let ending = match input {
        Input::End(ending) => ending,
        Input::Cancel(cause) => Ending::Canceled(cause),
        Input::Claim | Input::Advance | Input::Release => {
            return Err(Error::Inconsistent("only an ending ends a turn"));
        }
    };
    let mut last_events = Vec::new();
    let message_id = match (ending, answer) {
        (Ending::Completed, Some(answer)) => {
            Some(store_answer(tx, turn, answer, &mut last_events, now).await?)
        }
        (Ending::Failed(_) | Ending::Canceled(_), None) => {
            store_partial(tx, turn, ending, spent, &mut last_events, now).await?
        }
        (Ending::Completed, None) | (Ending::Failed(_) | Ending::Canceled(_), Some(_)) => {
            return Err(Error::Inconsistent("only a completed turn has an answer"));
        }
    };
    if ending != Ending::Completed {
        stops::mark_due(tx, turn.id, now).await?;
    }
    let finish = answer.map_or("", |answer| answer.finish.as_str());
    let elapsed_ms = (now - turn.created_at).num_milliseconds().max(0);
    let last = TurnEvent::ending(ending, message_id, finish, elapsed_ms)
        .ok_or(Error::Inconsistent("a completed turn has a message"))?;
    last_events.push(last);
    let events = events::insert(tx, turn.id, turn.last_seq, &last_events).await?;
    turns::end(tx, turn.id, &turn.standing, &after, ending.reason()).await?;
    let next = turns::find_next_queued(tx, turn.session_id).await?;
    let turn = Turn {
        standing: after,
        cause: ending.reason().to_owned(),
        last_seq: events.last().map_or(turn.last_seq, |event| event.seq),
        ..turn.clone()
    };
    Ok(Ended { turn, events, next })
}

async fn store_answer(
    tx: &mut Tx,
    turn: &Turn,
    answer: &Answer,
    events: &mut Vec<TurnEvent>,
    now: DateTime<Utc>,
) -> Result<MessageId> {
    let id = MessageId::new();
    let message = StoredMessage {
        message: storable(answer.message.clone()),
        model: answer.model.clone(),
        finish_reason: answer.finish.as_str().to_owned(),
        ..message_of(turn, id, answer.step, Role::Assistant, now)
    };
    messages::insert(tx, &message).await?;
    events.push(record_usage(tx, &answer.attempt_of(turn), now).await?);
    Ok(id)
}

async fn store_partial(
    tx: &mut Tx,
    turn: &Turn,
    ending: Ending,
    spent: Option<Usage>,
    events: &mut Vec<TurnEvent>,
    now: DateTime<Utc>,
) -> Result<Option<MessageId>> {
    let committed = messages::last_step(tx, turn.id).await?;
    let open = OpenStep::read(&events::list_last_step(tx, turn.id).await?);
    if open.step > committed {
        if !(open.voided || open.settled) {
            let attempt = Attempt::of(turn, open.step, open.attempt, open.model.clone(), spent);
            events.push(record_usage(tx, &attempt, now).await?);
        }
        if open.is_visible() {
            let id = MessageId::new();
            let finish = if matches!(ending, Ending::Canceled(_)) { "canceled" } else { "error" };
            let message = StoredMessage {
                message: storable(Message { role: Role::Assistant, parts: open.parts() }),
                model: open.model,
                finish_reason: finish.to_owned(),
                ..message_of(turn, id, open.step, Role::Assistant, now)
            };
            messages::insert(tx, &message).await?;
            return Ok(Some(id));
        }
        return Ok(None);
    }
    if committed > 0 {
        return store_open_calls(tx, turn, committed, now).await;
    }
    Ok(None)
}

/// Stores the message with the results of the last committed step's calls, unless the worker has stored it.
/// Returns the message's id.
async fn store_open_calls(
    tx: &mut Tx,
    turn: &Turn,
    step: i32,
    now: DateTime<Utc>,
) -> Result<Option<MessageId>> {
    let calls = tool_calls::list(tx, turn.account_id, turn.id, step).await?;
    let own = messages::list_of_turn(tx, turn.account_id, turn.id).await?;
    let answered = own.iter().any(|stored| stored.step == step && stored.message.role == Role::Tool);
    if calls.is_empty() || answered {
        return Ok(None);
    }
    let id = MessageId::new();
    let parts = calls.into_iter().map(result_so_far).collect();
    let message = StoredMessage {
        message: Message { role: Role::Tool, parts },
        ..message_of(turn, id, step, Role::Tool, now)
    };
    messages::insert(tx, &message).await?;
    Ok(Some(id))
}

fn result_so_far(call: JournaledCall) -> Part {
    let (content, is_error) = match (call.result, call.state) {
        (Some(result), _) => (result.content, result.is_error),
        (None, ToolCallState::Intended) => (NOT_CARRIED_OUT.to_owned(), true),
        (None, ToolCallState::Dispatched | ToolCallState::Finished | ToolCallState::InDoubt) => {
            (Outcome::InDoubt.render().content, true)
        }
    };
    Part::ToolResult { call_id: call.call.id, name: call.call.name, content, is_error }
}

/// Records an attempt's usage in the ledger. Returns the event that shows it.
pub(crate) async fn record_usage(tx: &mut Tx, attempt: &Attempt, now: DateTime<Utc>) -> Result<TurnEvent> {
    usage::record(tx, attempt, now).await?;
    Ok(TurnEvent::Usage {
        step: attempt.step,
        attempt: attempt.attempt,
        model: attempt.model.clone(),
        usage: attempt.usage.unwrap_or_default(),
        unknown: attempt.usage.is_none(),
    })
}

/// Builds a message of the turn without its content.
pub(crate) fn message_of(
    turn: &Turn,
    id: MessageId,
    step: i32,
    role: Role,
    now: DateTime<Utc>,
) -> StoredMessage {
    StoredMessage {
        id,
        account_id: turn.account_id,
        session_id: turn.session_id,
        turn_id: turn.id,
        ordinal: turn.ordinal,
        step,
        message: Message { role, parts: Vec::new() },
        model: String::new(),
        finish_reason: String::new(),
        created_at: now,
    }
}
