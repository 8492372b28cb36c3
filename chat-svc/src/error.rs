//! Why chat-svc refuses or fails a request.

use svc_core::{
    custody,
    data::{idempotency, pg},
    error::{ErrorKind, Invalid, PublicError, ServiceError},
    wire::client::REPLICA_STOPPING,
};

use crate::{domain::turn::TurnStatus, journal::ReadError};

/// Result of a use case.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entity {
    Session,
    Turn,
}

impl Entity {
    const fn noun(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Turn => "turn",
        }
    }
}

/// Why a request is refused or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The tenant has no such entity.
    #[error("no such {}", .0.noun())]
    NotFound(Entity),
    /// The session's policy refuses an input while a turn is not final.
    #[error("a turn of the session is in flight")]
    TurnInFlight,
    #[error("too many turns of the session wait")]
    QueueFull,
    /// A final turn cannot be canceled.
    #[error("the turn is {0:?} already")]
    TurnFinal(TurnStatus),
    #[error("reader was too slow")]
    SlowReader,
    #[error("credential was revoked")]
    CredentialRevoked,
    /// This process stops; another replica can continue the stream.
    #[error("this replica is stopping")]
    Stopping,
    /// Stored state contradicts itself: a defect of Steward.
    #[error("inconsistent: {0}")]
    Inconsistent(&'static str),
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    #[error(transparent)]
    Custody(#[from] custody::Error),
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::NotFound(Entity::Turn),
            ReadError::Store(error) => Self::Pg(error),
        }
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        match self {
            Self::Invalid(error) => error.public(),
            Self::NotFound(_) => PublicError::of_kind(ErrorKind::NotFound, self.to_string()),
            Self::TurnInFlight => PublicError::new(
                ErrorKind::FailedPrecondition,
                "TURN_IN_FLIGHT",
                "a turn of this session is not final yet, and its policy takes one at a time",
            ),
            Self::QueueFull => PublicError::new(
                ErrorKind::ResourceExhausted,
                "TURN_QUEUE_FULL",
                "too many turns of this session wait already",
            ),
            Self::TurnFinal(_) => {
                PublicError::new(ErrorKind::FailedPrecondition, "TURN_FINAL", "the turn is final already")
            }
            Self::SlowReader => PublicError::new(
                ErrorKind::ResourceExhausted,
                "SLOW_READER",
                "events were taken too slowly; resume from the last event's id",
            ),
            Self::CredentialRevoked => {
                PublicError::of_kind(ErrorKind::Unauthenticated, "a valid credential is required")
            }
            Self::Stopping => PublicError::new(
                ErrorKind::Unavailable,
                REPLICA_STOPPING,
                "this replica is stopping; resume from the last event's id",
            ),
            Self::Inconsistent(_) => PublicError::internal(),
            Self::Idempotency(error) => error.public(),
            Self::Custody(error) => error.public(),
            Self::Pg(error) => error.public(),
        }
    }
}

svc_core::into_status!(Error);
