//! The events of a turn: what every door shows of it, in the one form in which it is stored and sent.
//!
//! A payload is one JSON object, `type` first; it is made once, when the event is stored, and from then on the
//! same bytes go to everybody. Sequence numbers count from 1 without a gap within a turn.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use svc_core::{
    id::{self, MessageId, TurnId},
    wire::error::Invalid,
};

use super::{failover::FailureClass, message::Part, step::Usage, turn::Ending};

/// Longest text of one stored delta; what adjacent deltas are merged up to, bytes.
pub const MAX_DELTA_BYTES: usize = 16 * 1024;

/// One event, before it has a place in the sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum TurnEvent {
    /// A worker began.
    #[serde(rename = "turn.started")]
    TurnStarted {
        /// How many workers have run the turn, this one included.
        attempt: i32,
    },
    /// A model is asked. Everything up to the step's commit can still be voided by a reset.
    #[serde(rename = "step.started")]
    StepStarted {
        /// Counts from 1.
        step: i32,
        /// Which try at this step it is, from 1.
        attempt: i32,
        /// The model's name in the route.
        model: String,
    },
    /// More of the answer.
    #[serde(rename = "text.delta")]
    TextDelta {
        /// The step.
        step: i32,
        /// The text.
        text: String,
    },
    /// More of the reasoning.
    #[serde(rename = "reasoning.delta")]
    ReasoningDelta {
        /// The step.
        step: i32,
        /// The text.
        text: String,
    },
    /// The model calls a tool; the intent is committed.
    #[serde(rename = "tool.call")]
    ToolCall {
        /// The step.
        step: i32,
        /// Place among the step's calls, from 1.
        call: i32,
        /// The model's id of the call.
        call_id: String,
        /// The tool.
        name: String,
        /// Its arguments, one object.
        arguments: Value,
    },
    /// What became of a tool call.
    #[serde(rename = "tool.result")]
    ToolResult {
        /// The step.
        step: i32,
        /// Place among the step's calls, from 1.
        call: i32,
        /// The model's id of the call.
        call_id: String,
        /// The tool.
        name: String,
        /// What the model reads.
        content: String,
        /// Whether the tool failed, or may have.
        is_error: bool,
        /// True if the call may or may not have run.
        in_doubt: bool,
    },
    /// What one model call cost.
    #[serde(rename = "usage")]
    Usage {
        /// The step.
        step: i32,
        /// Which try at this step it was.
        attempt: i32,
        /// The model's name in the route.
        model: String,
        /// Tokens; those missing are unknown, not zero.
        #[serde(flatten)]
        usage: Usage,
        /// True if what the call cost is not known.
        unknown: bool,
    },
    /// The open step is begun anew: its events from `from_seq` on are void.
    #[serde(rename = "reset")]
    Reset {
        /// First event that is void.
        from_seq: i64,
        /// The try at this step that follows.
        attempt: i32,
        /// Why, UPPER_SNAKE.
        cause: String,
    },
    /// Another model goes on from the open step's text: nothing is void.
    #[serde(rename = "splice")]
    Splice {
        /// The step.
        step: i32,
        /// The try at this step that follows.
        attempt: i32,
        /// Who wrote what is kept.
        from_model: String,
        /// Who goes on.
        to_model: String,
        /// Bytes of text that stay.
        kept_bytes: i64,
        /// Why, UPPER_SNAKE.
        cause: String,
    },
    /// Final: the answer is stored.
    #[serde(rename = "turn.completed")]
    TurnCompleted {
        /// The message that holds it.
        message_id: MessageId,
        /// Why the model ended it.
        finish_reason: String,
        /// Time since the turn was accepted.
        elapsed_ms: i64,
    },
    /// Final: it ended with an error.
    #[serde(rename = "turn.failed")]
    TurnFailed {
        /// Why, UPPER_SNAKE.
        cause: String,
        /// The same for people.
        message: String,
        /// The message that keeps what was said so far, if anything was.
        message_id: Option<MessageId>,
        /// Time since the turn was accepted.
        elapsed_ms: i64,
    },
    /// Final: it was canceled.
    #[serde(rename = "turn.canceled")]
    TurnCanceled {
        /// Why, UPPER_SNAKE.
        cause: String,
        /// The message that keeps what was said so far, if anything was.
        message_id: Option<MessageId>,
        /// Time since the turn was accepted.
        elapsed_ms: i64,
    },
}

impl TurnEvent {
    /// Its kind, as doors name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
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
    #[must_use]
    pub fn is_final(kind: &str) -> bool {
        matches!(kind, "turn.completed" | "turn.failed" | "turn.canceled")
    }

    /// Takes in `later`, which follows directly, if both are deltas of one kind and step and stay small
    /// together.
    ///
    /// # Errors
    /// `later` itself, where it stays an event of its own.
    pub fn merge(&mut self, later: Self) -> Result<(), Self> {
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

    /// About how many bytes it takes in memory and in the journal.
    #[must_use]
    pub fn weight(&self) -> usize {
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

    /// The stored form.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        // Serialising these types cannot fail: every key is a string.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The event in its place.
    #[must_use]
    pub fn stored(&self, seq: i64) -> StoredEvent {
        StoredEvent { seq, kind: self.kind().to_owned(), payload: self.payload().into() }
    }

    /// The last event of a turn that ends so. `message_id` is the message that holds its answer, or what it
    /// said until then; an answer always has one.
    #[must_use]
    pub fn ending(
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

    /// A reset because of a failed model call.
    #[must_use]
    pub fn reset(from_seq: i64, attempt: i32, cause: ResetCause) -> Self {
        Self::Reset { from_seq, attempt, cause: cause.reason().to_owned() }
    }
}

/// Why an open step is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// Its model call failed.
    Model(FailureClass),
    /// Another worker took the turn over.
    Takeover,
}

impl ResetCause {
    /// Stable reason, UPPER_SNAKE.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Model(class) => class.reason(),
            Self::Takeover => "TAKEOVER",
        }
    }
}

/// One event with its place in the sequence, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Place in the turn's sequence, from 1.
    pub seq: i64,
    /// Kind, as "text.delta".
    pub kind: String,
    /// The JSON object that every door sends.
    pub payload: bytes::Bytes,
}

/// What the open step of a turn has shown so far, read back from its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenStep {
    /// Its number; 0 if no step is open.
    pub step: i32,
    /// Tries at it so far.
    pub attempt: i32,
    /// Its first event; what a reset voids from.
    pub from_seq: i64,
    /// The model that was asked last.
    pub model: String,
    /// Visible text.
    pub text: String,
    /// Visible reasoning.
    pub reasoning: String,
    /// Whether its first event is void already.
    pub voided: bool,
    /// Whether what the last try cost is known already, or known to be unknown.
    pub settled: bool,
}

impl OpenStep {
    /// Reads the events after the last committed step.
    #[must_use]
    pub fn read(events: &[StoredEvent]) -> Self {
        let mut open = Self::default();
        for stored in events {
            match serde_json::from_slice(&stored.payload) {
                Ok(TurnEvent::StepStarted { step, attempt, model }) => {
                    // A silent restart adds a start to a step that has shown nothing: what is void is the same.
                    open = Self { step, attempt, model, from_seq: stored.seq, ..Self::default() };
                }
                // Another model goes on from the text: nothing is void.
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
                // A try that failed is settled before the next one starts, and the turn may end between the two.
                Ok(TurnEvent::Usage { step, attempt, .. })
                    if (step, attempt) == (open.step, open.attempt) =>
                {
                    open.settled = true;
                }
                // Events of committed steps, and none of these can be inside an open one.
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

    /// What it has shown, as parts of a message. Where reasoning and text took turns, their order is lost: the
    /// step never ended, and no model is given its reasoning back.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let reasoning = (!self.reasoning.is_empty())
            .then(|| Part::Reasoning { text: self.reasoning.clone(), signature: None });
        let text = (!self.text.is_empty()).then(|| Part::Text { text: self.text.clone() });
        reasoning.into_iter().chain(text).collect()
    }

    /// Whether a client has seen anything of it that is not void.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        !self.text.is_empty() || !self.reasoning.is_empty()
    }
}

/// Place in a turn's journal, as clients pass it: `<turn id>:<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The turn.
    pub turn_id: TurnId,
    /// The last event seen; 0 is before the first.
    pub seq: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.turn_id, self.seq)
    }
}

impl Cursor {
    /// Parses what a caller gave for `field` and checks that it belongs to `turn_id`; empty is the beginning.
    ///
    /// # Errors
    /// [`Invalid`] if it is no cursor, or one of another turn.
    pub fn parse(field: &str, text: &str, turn_id: TurnId) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self { turn_id, seq: 0 });
        }
        let bad = || Invalid::new(field, "must be the id of an event of this turn");
        let (turn, seq) = text.split_once(':').ok_or_else(bad)?;
        // One spelling a cursor: no sign, no leading zero.
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
