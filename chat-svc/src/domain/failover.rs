//! What to do after a model call failed.

use serde::{Deserialize, Serialize};

/// Why a model call failed, by what may be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The request itself is at fault: no model will take it.
    InvalidRequest,
    /// This model or this account at its provider refuses it: another model may not.
    Rejected,
    /// Over a rate limit or a quota.
    RateLimited,
    /// The upstream failed, could not be reached, or did not answer in time.
    Transient,
    /// The stream ended before the model did.
    Cut,
    /// The stream stayed open and silent.
    Stalled,
    /// The stream said something that cannot be read.
    Malformed,
    /// The upstream reported an error inside its stream.
    InBand,
    /// The model ended its message without having said anything.
    EmptyTurn,
    /// We stopped it. Never counted against anyone, never followed by another attempt.
    Canceled,
}

impl FailureClass {
    /// Stable reason for clients, UPPER_SNAKE.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::InvalidRequest => "MODEL_REQUEST_INVALID",
            Self::Rejected => "MODEL_REJECTED",
            Self::RateLimited => "MODEL_RATE_LIMITED",
            Self::Transient => "MODEL_UNAVAILABLE",
            Self::Cut => "MODEL_STREAM_CUT",
            Self::Stalled => "MODEL_STALLED",
            Self::Malformed => "MODEL_STREAM_MALFORMED",
            Self::InBand => "MODEL_ERROR",
            Self::EmptyTurn => "MODEL_EMPTY_TURN",
            Self::Canceled => "CANCELED",
        }
    }

    /// What a user may read about it.
    #[must_use]
    pub const fn public_message(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the model does not accept this conversation",
            Self::Rejected => "the model's provider refused the call",
            Self::RateLimited => "the model is over its rate limit",
            Self::Transient => "the model is not available",
            Self::Cut => "the model's answer was cut off",
            Self::Stalled => "the model stopped answering",
            Self::Malformed => "the model's answer could not be read",
            Self::InBand => "the model reported an error",
            Self::EmptyTurn => "the model gave no answer",
            Self::Canceled => "the call was canceled",
        }
    }
}
