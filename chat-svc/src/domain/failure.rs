//! Why a model call failed, and why an open step starts again.

/// Why a model call failed, divided by the action that may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailureClass {
    /// The request itself is at fault; no model accepts it.
    InvalidRequest,
    /// The model, or our account at its provider, refuses the call; another model may accept it.
    Rejected,
    /// A rate limit or a quota was exceeded.
    RateLimited,
    /// The upstream failed, was unreachable, or did not answer in time.
    Transient,
    /// The stream ended before the model finished.
    Cut,
    /// The stream stayed open and sent nothing.
    Stalled,
    /// The stream sent something that cannot be decoded.
    Malformed,
    /// The upstream reported an error inside its stream.
    InBand,
    /// The model finished without text, reasoning or tool call.
    EmptyTurn,
}

/// Effect of a failure on the health of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthEffect {
    /// The endpoint works: it answered, and refused the call.
    None,
    /// Counts as one failure.
    Failure,
    /// Opens the endpoint's breaker at once: the endpoint asked for a pause.
    OpenAtOnce,
}

impl FailureClass {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::InvalidRequest,
        Self::Rejected,
        Self::RateLimited,
        Self::Transient,
        Self::Cut,
        Self::Stalled,
        Self::Malformed,
        Self::InBand,
        Self::EmptyTurn,
    ];

    /// Stable reason for clients, UPPER_SNAKE.
    pub(crate) const fn reason(self) -> &'static str {
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
        }
    }

    /// Text that a user may read.
    pub(crate) const fn public_message(self) -> &'static str {
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
        }
    }

    /// Whether a retry on the same model may succeed. False for example after a refusal, which the model
    /// would repeat; after a rate limit, which needs a pause; and after a stall, which has used up its
    /// timeout.
    pub(crate) const fn retry_may_help(self) -> bool {
        match self {
            Self::Transient | Self::Cut | Self::Malformed => true,
            Self::InvalidRequest
            | Self::Rejected
            | Self::RateLimited
            | Self::Stalled
            | Self::InBand
            | Self::EmptyTurn => false,
        }
    }

    /// Whether another model may succeed.
    pub(crate) const fn failover_may_help(self) -> bool {
        match self {
            Self::Rejected
            | Self::RateLimited
            | Self::Transient
            | Self::Cut
            | Self::Stalled
            | Self::Malformed
            | Self::InBand
            | Self::EmptyTurn => true,
            Self::InvalidRequest => false,
        }
    }

    /// Effect on the health of the endpoint.
    pub(crate) const fn health_effect(self) -> HealthEffect {
        match self {
            Self::RateLimited => HealthEffect::OpenAtOnce,
            Self::Transient
            | Self::Cut
            | Self::Stalled
            | Self::Malformed
            | Self::InBand
            | Self::EmptyTurn => HealthEffect::Failure,
            Self::InvalidRequest | Self::Rejected => HealthEffect::None,
        }
    }
}

/// Why an open step starts again or continues on another model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetCause {
    /// Its model call failed.
    Model(FailureClass),
    /// Another worker took the turn over.
    Takeover,
}

impl ResetCause {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Model(class) => class.reason(),
            Self::Takeover => "TAKEOVER",
        }
    }
}
