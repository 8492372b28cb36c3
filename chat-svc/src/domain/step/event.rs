//! The vocabulary of one model call: what a model may say, whatever API it speaks.

use serde::{Deserialize, Serialize};

/// One thing that came out of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEvent {
    /// More of the answer. Never empty.
    TextDelta(String),
    /// More of the reasoning. Never empty.
    ReasoningDelta(String),
    /// A piece of a tool call's arguments arrived; the call itself follows as [`ModelEvent::ToolCall`].
    /// Progress, but nothing anyone is shown: a call that is cut in the middle never existed.
    ToolCallDelta {
        /// How many bytes of arguments came.
        bytes: usize,
    },
    /// A whole tool call.
    ToolCall(ToolCall),
    /// What the call cost; a later one replaces an earlier one.
    Usage(Usage),
    /// The model ended its message. Nothing but usage may follow.
    Finish(FinishReason),
    /// A sign of life without content.
    Pulse(Pulse),
}

/// A sign of life without content, by how much it proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Bytes came (a keep-alive comment): the connection is alive, perhaps only a proxy in between.
    Bytes,
    /// A well-formed event without content came: the upstream itself is alive.
    Event,
}

/// A tool call as a model made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's own id of the call, never empty, unique within its message.
    pub id: String,
    /// Name of the tool, not checked against any list.
    pub name: String,
    /// Arguments: always one complete JSON object, as text.
    pub arguments: String,
}

/// Tokens of one model call. `None` is unknown, which is not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: Option<u64>,
    /// Of the input: read from the provider's cache.
    pub cache_read_tokens: Option<u64>,
    /// Of the input: written to the provider's cache.
    pub cache_write_tokens: Option<u64>,
    /// Of the output: reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// Why a model ended its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It had said everything.
    EndTurn,
    /// It waits for the results of its tool calls.
    ToolUse,
    /// It ran into the limit on output tokens.
    MaxTokens,
    /// A content filter stopped it, or it declined.
    Refusal,
    /// A reason this version does not know.
    Unknown,
}

impl FinishReason {
    /// Its name in events, records and telemetry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::ToolUse => "tool_use",
            Self::MaxTokens => "max_tokens",
            Self::Refusal => "refusal",
            Self::Unknown => "unknown",
        }
    }
}
