//! Reasons for which a request failed, and the public error that its caller gets.

use std::time::Duration;

use svc_core::{
    custody,
    data::{idempotency, pg, redis},
    error::{ErrorKind, Invalid, PublicError, ServiceError},
    wire::principal,
};

use crate::domain::{relay_state, status};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// `Retry-After` of the refusal when too many messages wait for an agent.
const AGENT_BUSY_RETRY: Duration = Duration::from_secs(5);

/// The kind of a missing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    Account,
    Token,
    Agent,
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

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] principal::Refused),
    /// The object does not exist, or belongs to another tenant.
    #[error("no such {}", .0.noun())]
    NotFound(Entity),
    /// The bearer is unknown, expired, revoked or used up. Callers get one text for all of these.
    #[error("token is not live")]
    TokenNotLive,
    /// The new token would have more scopes than the caller's, or live longer.
    #[error("caller may not grant {0}")]
    ScopeExceeded(&'static str),
    /// The account has reached a limit.
    #[error("account has {most} {what} already")]
    TooMany {
        /// Plural of the limited objects, as "live tokens".
        what: &'static str,
        most: u32,
    },
    #[error("request has more than {0} bytes")]
    TooLarge(usize),
    /// Too many messages wait for the agent.
    #[error("{0} messages wait for the agent already")]
    AgentBusy(u32),
    /// The agent's status does not allow the request.
    #[error(transparent)]
    Status(#[from] status::Refused),
    /// The message's state machine refused an input, which only a fault of registry-svc can cause.
    #[error("message refused a transition")]
    Machine(#[from] relay_state::InvalidInput),
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    #[error(transparent)]
    Custody(#[from] custody::Error),
    /// Redis failed during an erasure, which has to delete data in it.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        use ErrorKind::{
            FailedPrecondition, NotFound, PayloadTooLarge, PermissionDenied, ResourceExhausted,
            Unauthenticated,
        };
        match self {
            Self::Invalid(error) => error.public(),
            Self::Refused(error) => error.public(),
            Self::NotFound(_) => PublicError::of_kind(NotFound, self.to_string()),
            Self::TokenNotLive => {
                PublicError::new(Unauthenticated, "TOKEN_NOT_LIVE", "a valid credential is required")
            }
            Self::ScopeExceeded(what) => {
                let text = format!("this credential may not grant {what}");
                PublicError::new(PermissionDenied, "SCOPE_EXCEEDED", text)
            }
            Self::TooMany { what, most } => {
                let text = format!("an account has at most {most} {what}");
                PublicError::new(FailedPrecondition, "LIMIT_REACHED", text)
            }
            Self::TooLarge(most) => {
                PublicError::of_kind(PayloadTooLarge, format!("a request has at most {most} bytes"))
            }
            Self::AgentBusy(_) => {
                let text = "too many messages wait for this agent";
                PublicError::new(ResourceExhausted, "AGENT_BUSY", text).retry_after(AGENT_BUSY_RETRY)
            }
            Self::Status(status::Refused::Removed) => PublicError::of_kind(NotFound, "no such agent"),
            Self::Status(refused @ status::Refused::Paused) => {
                PublicError::new(FailedPrecondition, "AGENT_PAUSED", refused.to_string())
            }
            Self::Status(refused @ status::Refused::NotPaused) => {
                PublicError::new(FailedPrecondition, "AGENT_NOT_PAUSED", refused.to_string())
            }
            Self::Machine(_) => PublicError::internal(),
            Self::Idempotency(error) => error.public(),
            Self::Custody(error) => error.public(),
            Self::Redis(error) => error.public(),
            Self::Pg(error) => error.public(),
        }
    }
}

svc_core::into_status!(Error);
