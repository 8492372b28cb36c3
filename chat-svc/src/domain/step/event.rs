//! The events of one model call, the same for every API.

use serde::{Deserialize, Serialize};

use crate::domain::{message::ToolCall, usage::Usage};

/// One item of a model's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelEvent {
    /// Next part of the answer. Never empty.
    TextDelta(String),
    /// Next part of the reasoning. Never empty.
    ReasoningDelta(String),
    /// `bytes` of a tool call's arguments arrived; the call follows as [`ModelEvent::ToolCall`]. It counts as
    /// progress, but is not shown, because a call that is cut off is discarded.
    ToolCallDelta { bytes: usize },
    /// A complete tool call.
    ToolCall(ToolCall),
    /// Tokens of the call; a later item replaces an earlier one.
    Usage(Usage),
    /// The model ended its message. Only usage may follow.
    Finish(FinishReason),
    /// The connection or the upstream is alive, but sent no content.
    Pulse(Pulse),
}

/// Evidence that the connection or the upstream is alive, without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Bytes arrived (a keep-alive comment): the connection is alive, though perhaps only to a proxy.
    Bytes,
    /// A well-formed event without content arrived: the upstream itself is alive.
    Event,
}

/// Why a model ended its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    /// The answer is complete.
    EndTurn,
    /// The model waits for the results of its tool calls.
    ToolUse,
    /// The answer reached the limit on output tokens.
    MaxTokens,
    /// A content filter stopped the answer, or the model declined.
    Refusal,
    /// A reason this version does not know.
    Unknown,
}

impl FinishReason {
    /// Its name in events, records and telemetry.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::ToolUse => "tool_use",
            Self::MaxTokens => "max_tokens",
            Self::Refusal => "refusal",
            Self::Unknown => "unknown",
        }
    }
}
