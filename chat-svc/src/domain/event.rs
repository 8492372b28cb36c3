//! Events of a turn. They are stored and sent in the same form.
//!
//! A payload is one JSON object with `type` as its first key. Every client gets the stored bytes. Sequence
//! numbers count from 1 without a gap within a turn.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use svc_core::{
    error::Invalid,
    id::{self, MessageId, TurnId},
};

use super::{failure::ResetCause, message::Part, turn::Ending, usage::Usage};

/// Maximum bytes of adjacent deltas that are merged into one; a single larger delta is stored whole.
pub(crate) const MAX_DELTA_BYTES: usize = 16 * 1024;

/// One event, before it has a sequence number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum TurnEvent {
    /// A worker runs the turn; stored once, before the first step. `attempt` is the number of claims so far;
    /// it is above 1 if earlier workers ended before they stored an event.
    #[serde(rename = "turn.started")]
    TurnStarted { attempt: i32 },
    /// A model of the route is asked. Everything up to the step's commit can still be voided by a reset.
    #[serde(rename = "step.started")]
    StepStarted { step: i32, attempt: i32, model: String },
    #[serde(rename = "text.delta")]
    TextDelta { step: i32, text: String },
    #[serde(rename = "reasoning.delta")]
    ReasoningDelta { step: i32, text: String },
    /// The model calls a tool. This event is committed together with the call's row in the journal, before
    /// the call is sent to a sandbox.
    #[serde(rename = "tool.call")]
    ToolCall {
        step: i32,
        /// Place among the step's calls, from 1.
        call: i32,
        /// The model's id of the call.
        call_id: String,
        /// Name of the tool.
        name: String,
        arguments: Value,
    },
    /// Result of a tool call.
    #[serde(rename = "tool.result")]
    ToolResult {
        step: i32,
        /// Place among the step's calls, from 1.
        call: i32,
        /// The model's id of the call.
        call_id: String,
        /// Name of the tool.
        name: String,
        /// Text for the model.
        content: String,
        /// Whether the tool failed, or may have failed.
        is_error: bool,
        /// True if the call may or may not have run.
        in_doubt: bool,
    },
    /// Tokens of one model call.
    #[serde(rename = "usage")]
    Usage {
        step: i32,
        attempt: i32,
        /// The model's name in the route.
        model: String,
        /// Missing counts are unknown, not zero.
        #[serde(flatten)]
        usage: Usage,
        /// True if the upstream reported no usage.
        unknown: bool,
    },
    /// The open step starts again as `attempt`: its events from `from_seq` on are void.
    #[serde(rename = "reset")]
    Reset { from_seq: i64, attempt: i32, cause: String },
    /// A model (another one, or after a takeover the same one) continues the open step's text as `attempt`:
    /// no event is void.
    #[serde(rename = "splice")]
    Splice {
        step: i32,
        attempt: i32,
        /// The model that wrote the kept text.
        from_model: String,
        /// The model that continues it.
        to_model: String,
        /// Bytes of the first model's text that stay valid.
        kept_bytes: i64,
        cause: String,
    },
    /// Final: the answer is stored as `message_id`. `elapsed_ms` counts from the turn's acceptance.
    #[serde(rename = "turn.completed")]
    TurnCompleted { message_id: MessageId, finish_reason: String, elapsed_ms: i64 },
    /// Final: the turn failed. `message` is the cause as a sentence for users; `message_id` keeps the partial
    /// answer, if any.
    #[serde(rename = "turn.failed")]
    TurnFailed { cause: String, message: String, message_id: Option<MessageId>, elapsed_ms: i64 },
    /// Final: the turn was canceled. `message_id` keeps the partial answer, if any.
    #[serde(rename = "turn.canceled")]
    TurnCanceled { cause: String, message_id: Option<MessageId>, elapsed_ms: i64 },
}

impl TurnEvent {
    /// Returns the event's kind in the contract.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::TurnStarted { .. } => "turn.started",
            Self::StepStarted { .. } => "step.started",
            Self::TextDelta { .. } => "text.delta",
            Self::ReasoningDelta { .. } => "reasoning.delta",
            Self::ToolCall { .. } => "tool.call",
            Self::ToolResult { .. } => "tool.result",
            Self::Usage { .. } => "usage",
            Self::Reset { .. } => "reset",
            Self::Splice { .. } => "splice",
            Self::TurnCompleted { .. } => "turn.completed",
            Self::TurnFailed { .. } => "turn.failed",
            Self::TurnCanceled { .. } => "turn.canceled",
        }
    }

    /// Whether an event of this kind is the turn's last.
    pub(crate) fn is_final(kind: &str) -> bool {
        matches!(kind, "turn.completed" | "turn.failed" | "turn.canceled")
    }

    /// Appends `later`, the next event, if both are deltas of one kind and step and together stay within
    /// [`MAX_DELTA_BYTES`].
    ///
    /// # Errors
    /// Returns `later` if it must remain a separate event.
    pub(crate) fn merge(&mut self, later: Self) -> Result<(), Self> {
        match (&mut *self, later) {
            (Self::TextDelta { step, text }, Self::TextDelta { step: same, text: more })
            | (Self::ReasoningDelta { step, text }, Self::ReasoningDelta { step: same, text: more })
                if *step == same && text.len() + more.len() <= MAX_DELTA_BYTES =>
            {
                text.push_str(&more);
                Ok(())
            }
            (_, later) => Err(later),
        }
    }

    /// Approximate bytes in memory and in the journal.
    pub(crate) fn weight(&self) -> usize {
        const FRAME: usize = 96;
        FRAME
            + match self {
                Self::TextDelta { text, .. } | Self::ReasoningDelta { text, .. } => text.len(),
                Self::ToolResult { content, .. } => content.len(),
                Self::ToolCall { arguments, .. } => arguments.to_string().len(),
                Self::TurnStarted { .. }
                | Self::StepStarted { .. }
                | Self::Usage { .. }
                | Self::Reset { .. }
                | Self::Splice { .. }
                | Self::TurnCompleted { .. }
                | Self::TurnFailed { .. }
                | Self::TurnCanceled { .. } => 0,
            }
    }

    pub fn payload(&self) -> Vec<u8> {
        // Serializing these types cannot fail: every key is a string.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the event with its sequence number.
    pub(crate) fn stored(&self, seq: i64) -> StoredEvent {
        StoredEvent { seq, kind: self.kind().to_owned(), payload: self.payload().into() }
    }

    /// Builds the last event of a turn with this ending. `message_id` is the message that holds its answer or
    /// partial answer. Returns `None` if a completed turn has no message.
    pub(crate) fn ending(
        ending: Ending,
        message_id: Option<MessageId>,
        finish_reason: &str,
        elapsed_ms: i64,
    ) -> Option<Self> {
        Some(match ending {
            Ending::Completed => Self::TurnCompleted {
                message_id: message_id?,
                finish_reason: finish_reason.to_owned(),
                elapsed_ms,
            },
            Ending::Failed(cause) => Self::TurnFailed {
                cause: cause.reason().to_owned(),
                message: cause.public_message().to_owned(),
                message_id,
                elapsed_ms,
            },
            Ending::Canceled(cause) => {
                Self::TurnCanceled { cause: cause.reason().to_owned(), message_id, elapsed_ms }
            }
        })
    }

    pub(crate) fn reset(from_seq: i64, attempt: i32, cause: ResetCause) -> Self {
        Self::Reset { from_seq, attempt, cause: cause.reason().to_owned() }
    }
}

/// One event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Sequence number within the turn, from 1.
    pub seq: i64,
    pub kind: String,
    /// The JSON object that clients get.
    pub payload: bytes::Bytes,
}

/// The step of a turn that was started last, read back from its events. It is open unless its message is
/// stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OpenStep {
    /// Its number; 0 if no step was started.
    pub step: i32,
    pub attempt: i32,
    /// Sequence number of its `step.started`; a reset voids the events from here on.
    pub from_seq: i64,
    /// The model that was asked last.
    pub model: String,
    pub text: String,
    pub reasoning: String,
    /// Whether a reset has voided it since its last `step.started`.
    pub voided: bool,
    /// Whether the last attempt's usage is recorded, as known or unknown.
    pub settled: bool,
}

impl OpenStep {
    /// Reads the events since the turn's last `step.started`.
    pub(crate) fn read(events: &[StoredEvent]) -> Self {
        let mut open = Self::default();
        for stored in events {
            match serde_json::from_slice(&stored.payload) {
                Ok(TurnEvent::StepStarted { step, attempt, model }) => {
                    // A retry starts a step again only if none of its content was shown, so a reset need not
                    // void the events before this one.
                    open = Self { step, attempt, model, from_seq: stored.seq, ..Self::default() };
                }
                // A model continues the text: no event is void.
                Ok(TurnEvent::Splice { attempt, to_model, .. }) => {
                    open.attempt = attempt;
                    open.model = to_model;
                    open.settled = false;
                }
                Ok(TurnEvent::TextDelta { text, .. }) => open.text.push_str(&text),
                Ok(TurnEvent::ReasoningDelta { text, .. }) => open.reasoning.push_str(&text),
                Ok(TurnEvent::Reset { .. }) => {
                    open.text.clear();
                    open.reasoning.clear();
                    open.voided = true;
                }
                // The usage of a failed attempt is recorded before the next attempt starts. If the turn ends
                // between the two, it must not be recorded again.
                Ok(TurnEvent::Usage { step, attempt, .. })
                    if (step, attempt) == (open.step, open.attempt) =>
                {
                    open.settled = true;
                }
                // These events belong to committed steps, never to the open one.
                Ok(
                    TurnEvent::TurnStarted { .. }
                    | TurnEvent::ToolCall { .. }
                    | TurnEvent::ToolResult { .. }
                    | TurnEvent::Usage { .. }
                    | TurnEvent::TurnCompleted { .. }
                    | TurnEvent::TurnFailed { .. }
                    | TurnEvent::TurnCanceled { .. },
                )
                | Err(_) => {}
            }
        }
        open
    }

    /// Returns the visible content as parts of a message. The order in which reasoning and text alternated is
    /// lost; no model is sent the reasoning of an unfinished step.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let reasoning = (!self.reasoning.is_empty())
            .then(|| Part::Reasoning { text: self.reasoning.clone(), signature: None });
        let text = (!self.text.is_empty()).then(|| Part::Text { text: self.text.clone() });
        reasoning.into_iter().chain(text).collect()
    }

    /// Whether clients have seen content that is not void.
    pub(crate) fn is_visible(&self) -> bool {
        !self.text.is_empty() || !self.reasoning.is_empty()
    }
}

/// Position in a turn's events, as clients pass it: `<turn id>:<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub turn_id: TurnId,
    /// Sequence number of the last event that the client has seen; 0 if none.
    pub seq: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.turn_id, self.seq)
    }
}

impl Cursor {
    /// Parses `text`, the value of the request's `field`, and checks that it is a cursor of `turn_id`; the
    /// event may not exist. An empty text is the position before the first event.
    ///
    /// # Errors
    /// [`Invalid`] if the text is not a cursor, or a cursor of another turn.
    pub(crate) fn parse(field: &str, text: &str, turn_id: TurnId) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self { turn_id, seq: 0 });
        }
        let bad = || Invalid::new(field, "must be the id of an event of this turn");
        let (turn, seq) = text.split_once(':').ok_or_else(bad)?;
        // A cursor has one spelling: no sign, no leading zero.
        let plain = seq.bytes().all(|b| b.is_ascii_digit()) && !(seq.len() > 1 && seq.starts_with('0'));
        let seq = i64::from_str(seq).ok().filter(|_| plain).ok_or_else(bad)?;
        match id::parse_id(field, turn) {
            Ok(turn) if TurnId(turn) == turn_id => Ok(Self { turn_id, seq }),
            Ok(_) | Err(_) => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests;
