//! The seam to one model API.
//!
//! A [`ModelClient`] turns one [`ModelRequest`] into a stream of [`ModelEvent`]s. What every implementation
//! guarantees, and `contract.rs` tests on each of them:
//!
//! * a stream that ends well has exactly one `Finish`, and nothing but `Usage` after it;
//! * a stream that ends otherwise ends with exactly one error, and nothing after it: a connection that closes
//!   early is [`ModelError::Cut`], never a short answer;
//! * a `Finish` without any text, reasoning or tool call before it is [`ModelError::Empty`];
//! * a tool call is handed on whole, its arguments one JSON object;
//! * dropping the stream stops the upstream call; nothing runs on in the background;
//! * nothing is retried here: that is the route's decision (`domain::failover`).
//!
//! It does not decide which model is called, executes no tool and keeps no history.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use crate::domain::{
    failover::FailureClass,
    message::{Message, Part, Role},
    step::{FinishReason, ModelEvent, Pulse, ToolCall, Usage},
    tools::ToolSpec,
};

/// What one call to a model yields.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// One model API behind one endpoint.
#[async_trait]
pub trait ModelClient: fmt::Debug + Send + Sync {
    /// The upstream endpoint, as `https://api.example.com/v1`: clients with the same one share a breaker.
    fn endpoint(&self) -> &str;

    /// Who serves it, as telemetry names providers: `openai`, `demo`.
    fn provider(&self) -> &str;

    /// Starts a call. Returns once the upstream accepted it; what fails later is an item of the stream.
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError>;
}

/// One call to a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelRequest {
    /// The model's id at its provider.
    pub model: String,
    /// Instructions that stand above the conversation.
    pub system: Option<String>,
    /// The conversation, oldest first. An assistant message at the end is a prefill: the model goes on from it,
    /// which only models with `Capabilities::prefill` do.
    pub messages: Vec<Message>,
    /// The tools it may call; none if empty.
    pub tools: Vec<ToolSpec>,
    /// Most tokens it may write; the provider's default if not said.
    pub max_output_tokens: Option<u32>,
    /// The session, as telemetry names it.
    pub conversation_id: Option<String>,
}

/// Most bytes of an upstream's own words that an error keeps.
pub const MAX_DETAIL_BYTES: usize = 2048;

/// What an upstream said about an error, cut to [`MAX_DETAIL_BYTES`]. For operators: it may quote the prompt,
/// name hosts or accounts, so it is never shown to a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    /// Keeps the beginning of `text`, on one line.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX_DETAIL_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let kept = text[..end].trim();
        Self(kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    /// The kept text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "no detail" } else { &self.0 })
    }
}

/// Why a call to a model failed. `Display` is for operators; a user reads [`ModelError::public_message`].
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The request itself is at fault (400, 413, 422).
    #[error("upstream refused the request as invalid with {status}: {detail}")]
    InvalidRequest {
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: Detail,
    },
    /// The upstream refuses this model, account or prompt size (other 4xx).
    #[error("upstream rejected the call with {status}: {detail}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: Detail,
    },
    /// Over a rate limit or quota: 429, or the same said inside the stream.
    #[error("upstream limits the rate: {detail}")]
    RateLimited {
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
        /// What it said.
        detail: Detail,
    },
    /// The upstream answered with a failure of its own (5xx, 408, 425).
    #[error("upstream failed with {status}: {detail}")]
    Server {
        /// HTTP status.
        status: u16,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
        /// What it said.
        detail: Detail,
    },
    /// The upstream could not be reached, or hung up before it answered.
    #[error("upstream could not be reached, or hung up before it answered")]
    Unreachable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The upstream took the request and did not begin to answer in time.
    #[error("upstream did not begin to answer within {after:?}")]
    NoAnswer {
        /// How long we waited.
        after: Duration,
    },
    /// The stream ended without the model having finished.
    #[error("stream was cut before the model finished")]
    Cut {
        /// The transport's reason; `None` if the stream was closed in good order.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Nothing came for too long.
    #[error("stream was silent for {idle:?}")]
    Stalled {
        /// How long.
        idle: Duration,
    },
    /// Something came that cannot be read.
    #[error("stream is malformed: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// The upstream reported an error inside its stream.
    #[error("upstream reported an error inside its stream ({code}): {detail}")]
    InBand {
        /// Its own code, `unknown` if it gave none.
        code: String,
        /// What it said.
        detail: Detail,
    },
    /// The model finished without text, reasoning or tool call.
    #[error("model finished with {finish:?} without saying anything")]
    Empty {
        /// The reason it gave.
        finish: FinishReason,
    },
    /// We stopped it.
    #[error("call was canceled")]
    Canceled,
}

impl ModelError {
    /// What may be done about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
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
            Self::Canceled => FailureClass::Canceled,
        }
    }

    /// When the upstream asked to come back.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
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
            | Self::Empty { .. }
            | Self::Canceled => None,
        }
    }

    /// What a user may read: the class and nothing the upstream said.
    #[must_use]
    pub const fn public_message(&self) -> &'static str {
        self.class().public_message()
    }
}
