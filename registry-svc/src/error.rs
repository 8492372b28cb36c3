//! Why registry-svc did not do what it was asked.

use std::{borrow::Cow, time::Duration};

use svc_core::{
    custody,
    data::{idempotency, pg, redis},
    wire::{
        error::{ErrorKind, Invalid, ServiceError},
        principal,
    },
};

use crate::domain::status;

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// When to come back to an agent for which too many messages wait.
const BUSY: Duration = Duration::from_secs(5);

/// What was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A tenant.
    Account,
    /// An API token.
    Token,
    /// An agent.
    Agent,
    /// A message in the relay.
    Message,
}

impl Entity {
    fn noun(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Token => "token",
            Self::Agent => "agent",
            Self::Message => "message",
        }
    }
}

/// Why registry-svc did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's credential does not fit.
    #[error(transparent)]
    Refused(#[from] principal::Refused),
    /// There is no such thing, or it is another tenant's.
    #[error("no such {}", .0.noun())]
    NotFound(Entity),
    /// The bearer is unknown, expired, revoked or used up. Callers see one text for all.
    #[error("token is not live")]
    TokenNotLive,
    /// A token would be able to do more, or for longer, than the one that asks for it.
    #[error("caller may not give away {0}")]
    ScopeExceeded(&'static str),
    /// The account has as many of something as it may.
    #[error("account has {most} {what} already")]
    TooMany {
        /// Of what, as "live tokens".
        what: &'static str,
        /// How many it may have.
        most: u32,
    },
    /// The request is longer than is read.
    #[error("request has more than {0} bytes")]
    TooLarge(usize),
    /// Too many messages wait for the agent.
    #[error("{0} messages wait for the agent already")]
    AgentBusy(u32),
    /// Where the agent stands, this has no meaning.
    #[error(transparent)]
    Status(#[from] status::Refused),
    /// The idempotency key cannot be used.
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    /// A step of an erasure was refused.
    #[error(transparent)]
    Custody(#[from] custody::Error),
    /// Redis did not do it, where nothing else would do.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// The database did not do it.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(error) => error.kind(),
            Self::Refused(error) => error.kind(),
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::TokenNotLive => ErrorKind::Unauthenticated,
            Self::ScopeExceeded(_) => ErrorKind::PermissionDenied,
            Self::TooMany { .. } => ErrorKind::FailedPrecondition,
            Self::TooLarge(_) => ErrorKind::PayloadTooLarge,
            Self::AgentBusy(_) => ErrorKind::ResourceExhausted,
            Self::Status(status::Refused::Removed) => ErrorKind::NotFound,
            Self::Status(status::Refused::Paused | status::Refused::NotPaused) => {
                ErrorKind::FailedPrecondition
            }
            Self::Idempotency(error) => error.kind(),
            Self::Custody(error) => error.kind(),
            Self::Redis(error) => error.kind(),
            Self::Pg(error) => error.kind(),
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Invalid(error) => error.reason(),
            Self::Refused(error) => error.reason(),
            Self::NotFound(_) => self.kind().row().reason.into(),
            Self::TokenNotLive => "TOKEN_NOT_LIVE".into(),
            Self::ScopeExceeded(_) => "SCOPE_EXCEEDED".into(),
            Self::TooMany { .. } => "LIMIT_REACHED".into(),
            Self::TooLarge(_) => self.kind().row().reason.into(),
            Self::AgentBusy(_) => "AGENT_BUSY".into(),
            Self::Status(status::Refused::Removed) => self.kind().row().reason.into(),
            Self::Status(status::Refused::Paused) => "AGENT_PAUSED".into(),
            Self::Status(status::Refused::NotPaused) => "AGENT_NOT_PAUSED".into(),
            Self::Idempotency(error) => error.reason(),
            Self::Custody(error) => error.reason(),
            Self::Redis(error) => error.reason(),
            Self::Pg(error) => error.reason(),
        }
    }

    fn public_message(&self) -> Cow<'static, str> {
        match self {
            Self::Invalid(error) => error.public_message(),
            Self::Refused(error) => error.public_message(),
            Self::NotFound(entity) => format!("no such {}", entity.noun()).into(),
            Self::TokenNotLive => "a valid credential is required".into(),
            Self::ScopeExceeded(what) => format!("this credential may not give away {what}").into(),
            Self::TooMany { what, most } => format!("an account has at most {most} {what}").into(),
            Self::TooLarge(most) => format!("a request has at most {most} bytes").into(),
            Self::AgentBusy(_) => "too many messages wait for this agent".into(),
            Self::Status(status::Refused::Removed) => "no such agent".into(),
            Self::Status(refused) => refused.to_string().into(),
            Self::Idempotency(error) => error.public_message(),
            Self::Custody(error) => error.public_message(),
            Self::Redis(error) => error.public_message(),
            Self::Pg(error) => error.public_message(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Idempotency(error) => error.retry_after(),
            Self::Custody(error) => error.retry_after(),
            Self::Redis(error) => error.retry_after(),
            Self::Pg(error) => error.retry_after(),
            Self::AgentBusy(_) => Some(BUSY),
            Self::Invalid(_)
            | Self::Refused(_)
            | Self::NotFound(_)
            | Self::TokenNotLive
            | Self::ScopeExceeded(_)
            | Self::TooMany { .. }
            | Self::TooLarge(_)
            | Self::Status(_) => None,
        }
    }

    fn invalid_fields(&self) -> &[Invalid] {
        match self {
            Self::Invalid(error) => error.invalid_fields(),
            Self::Refused(_)
            | Self::NotFound(_)
            | Self::TokenNotLive
            | Self::ScopeExceeded(_)
            | Self::TooMany { .. }
            | Self::TooLarge(_)
            | Self::AgentBusy(_)
            | Self::Status(_)
            | Self::Idempotency(_)
            | Self::Custody(_)
            | Self::Redis(_)
            | Self::Pg(_) => &[],
        }
    }
}
