//! The trait of a model API.
//!
//! A [`ModelClient`] turns one [`ModelRequest`] into a stream of [`ModelEvent`]s. Every implementation
//! guarantees, and `contract.rs` tests:
//!
//! * a successful stream has exactly one `Finish`, and only `Usage` after it;
//! * any other stream ends with exactly one error: a connection that closes early is [`ModelError::Cut`],
//!   never a short answer;
//! * a `Finish` without any text, reasoning or tool call before it is [`ModelError::Empty`];
//! * a tool call is passed on complete, with one JSON object as arguments;
//! * dropping the stream stops the upstream call.
//!
//! An implementation retries nothing, because the route decides on retries (`domain::failover`).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

pub(crate) use crate::domain::{
    failure::FailureClass,
    message::{Message, Part, Role, ToolCall},
    step::{FinishReason, ModelEvent, Pulse},
    tools::ToolSpec,
    usage::Usage,
};

/// Items of one call to a model.
pub(crate) type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// One model API behind one endpoint.
#[async_trait]
pub(crate) trait ModelClient: fmt::Debug + Send + Sync {
    /// The upstream endpoint, for example `https://api.example.com/v1`. Clients of one endpoint share a
    /// breaker.
    fn endpoint(&self) -> &str;

    /// The provider's name in telemetry: `openai`, `demo`.
    fn provider(&self) -> &str;

    /// Starts a call. Returns once the upstream accepted it; a later failure is an item of the stream.
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError>;
}

/// A request for one call to a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ModelRequest {
    /// The model's id at its provider.
    pub model: String,
    /// Instructions above the conversation.
    pub system: Option<String>,
    /// The conversation, oldest first. An assistant message at the end is a prefill, which only models with
    /// `Capabilities::prefill` continue.
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    pub tools: Vec<ToolSpec>,
    /// Maximum output tokens; `None` is the provider's default.
    pub max_output_tokens: Option<u32>,
    /// The session, for telemetry.
    pub conversation_id: Option<String>,
}

/// Maximum bytes of an upstream's error text that an error keeps.
pub(crate) const MAX_DETAIL_BYTES: usize = 2048;

/// An upstream's error text, cut to [`MAX_DETAIL_BYTES`]. For operators only: it may quote the prompt and
/// name hosts or accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Detail(String);

impl Detail {
    /// Keeps the beginning of `text`, on one line.
    pub(crate) fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX_DETAIL_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let kept = text[..end].trim();
        Self(kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "no detail" } else { &self.0 })
    }
}

/// Why a call to a model failed. `Display` is for operators; a user reads the class's public message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// The request itself is at fault (400, 413, 422).
    #[error("upstream refused the request as invalid with {status}: {detail}")]
    InvalidRequest { status: u16, detail: Detail },
    /// The upstream refuses this model, account or prompt size (other 4xx).
    #[error("upstream rejected the call with {status}: {detail}")]
    Rejected { status: u16, detail: Detail },
    /// Over a rate limit or quota: 429, or an equivalent error inside the stream.
    #[error("upstream limits the rate: {detail}")]
    RateLimited { retry_after: Option<Duration>, detail: Detail },
    /// The upstream failed (5xx, 408, 425).
    #[error("upstream failed with {status}: {detail}")]
    Server { status: u16, retry_after: Option<Duration>, detail: Detail },
    #[error("upstream could not be reached, or hung up before it answered")]
    Unreachable { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("upstream did not begin to answer within {after:?}")]
    NoAnswer { after: Duration },
    /// The stream ended before the model finished. `source` is the transport's error, if any.
    #[error("stream was cut before the model finished")]
    Cut { source: Option<Box<dyn std::error::Error + Send + Sync>> },
    #[error("stream was silent for {idle:?}")]
    Stalled { idle: Duration },
    #[error("stream is malformed: {problem}")]
    Malformed { problem: String },
    /// `code` is `unknown` if the upstream gave none.
    #[error("upstream reported an error inside its stream ({code}): {detail}")]
    InBand { code: String, detail: Detail },
    /// The model finished without text, reasoning or tool call.
    #[error("model finished with {finish:?} without saying anything")]
    Empty { finish: FinishReason },
}

impl ModelError {
    pub(crate) const fn class(&self) -> FailureClass {
        match self {
            Self::InvalidRequest { .. } => FailureClass::InvalidRequest,
            Self::Rejected { .. } => FailureClass::Rejected,
            Self::RateLimited { .. } => FailureClass::RateLimited,
            Self::Server { .. } | Self::Unreachable { .. } | Self::NoAnswer { .. } => FailureClass::Transient,
            Self::Cut { .. } => FailureClass::Cut,
            Self::Stalled { .. } => FailureClass::Stalled,
            Self::Malformed { .. } => FailureClass::Malformed,
            Self::InBand { .. } => FailureClass::InBand,
            Self::Empty { .. } => FailureClass::EmptyTurn,
        }
    }

    /// Pause that the upstream asked for.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            Self::InvalidRequest { .. }
            | Self::Rejected { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Cut { .. }
            | Self::Stalled { .. }
            | Self::Malformed { .. }
            | Self::InBand { .. }
            | Self::Empty { .. } => None,
        }
    }
}
