//! Why chat-svc did not do what it was asked.

use std::{borrow::Cow, time::Duration};

use svc_core::{
    custody,
    data::{idempotency, pg},
    wire::{
        error::{ErrorKind, Invalid, ServiceError},
        principal,
    },
};

use crate::{domain::turn::TurnStatus, journal::ReadError};

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A conversation.
    Session,
    /// A turn of one.
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

/// Why chat-svc did not do what it was asked.
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
    /// The session's policy refuses an input while a turn is not final.
    #[error("a turn of the session is in flight")]
    TurnInFlight,
    /// Too many turns of the session wait already.
    #[error("too many turns of the session wait")]
    QueueFull,
    /// The turn is final: it cannot be canceled any more.
    #[error("the turn is {0:?} already")]
    TurnFinal(TurnStatus),
    /// The caller took no events for too long.
    #[error("reader was too slow")]
    SlowReader,
    /// The caller's credential is no longer good.
    #[error("credential was revoked")]
    CredentialRevoked,
    /// This process stops; the stream goes on elsewhere.
    #[error("this replica is stopping")]
    Stopping,
    /// What is written contradicts itself: a defect.
    #[error("inconsistent: {0}")]
    Inconsistent(&'static str),
    /// The idempotency key cannot be used.
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    /// A step of an erasure was refused.
    #[error(transparent)]
    Custody(#[from] custody::Error),
    /// The database did not do it.
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

impl Error {
    /// The error beneath that speaks for itself, where there is one.
    fn inner(&self) -> Option<&dyn ServiceError> {
        match self {
            Self::Invalid(error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Idempotency(error) => Some(error),
            Self::Custody(error) => Some(error),
            Self::Pg(error) => Some(error),
            Self::NotFound(_)
            | Self::TurnInFlight
            | Self::QueueFull
            | Self::TurnFinal(_)
            | Self::SlowReader
            | Self::CredentialRevoked
            | Self::Stopping
            | Self::Inconsistent(_) => None,
        }
    }

    /// Kind, reason and public text of an error of this crate's own.
    fn own(&self) -> (ErrorKind, &'static str, Cow<'static, str>) {
        match self {
            Self::NotFound(entity) => {
                (ErrorKind::NotFound, "NOT_FOUND", format!("no such {}", entity.noun()).into())
            }
            Self::TurnInFlight => (
                ErrorKind::FailedPrecondition,
                "TURN_IN_FLIGHT",
                "a turn of this session is not final yet, and its policy takes one at a time".into(),
            ),
            Self::QueueFull => (
                ErrorKind::ResourceExhausted,
                "TURN_QUEUE_FULL",
                "too many turns of this session wait already".into(),
            ),
            Self::TurnFinal(_) => {
                (ErrorKind::FailedPrecondition, "TURN_FINAL", "the turn is final already".into())
            }
            Self::SlowReader => (
                ErrorKind::ResourceExhausted,
                "SLOW_READER",
                "events were taken too slowly; go on from the last event's id".into(),
            ),
            Self::CredentialRevoked => {
                (ErrorKind::Unauthenticated, "UNAUTHENTICATED", "a valid credential is required".into())
            }
            Self::Stopping => (
                ErrorKind::Unavailable,
                svc_core::wire::client::REPLICA_STOPPING,
                "this replica is stopping; go on from the last event's id".into(),
            ),
            Self::Invalid(_)
            | Self::Refused(_)
            | Self::Inconsistent(_)
            | Self::Idempotency(_)
            | Self::Custody(_)
            | Self::Pg(_) => (ErrorKind::Internal, "INTERNAL", "internal error".into()),
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        self.inner().map_or_else(|| self.own().0, ServiceError::kind)
    }

    fn reason(&self) -> Cow<'static, str> {
        self.inner().map_or_else(|| self.own().1.into(), ServiceError::reason)
    }

    fn public_message(&self) -> Cow<'static, str> {
        self.inner().map_or_else(|| self.own().2, ServiceError::public_message)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self.inner() {
            Some(inner) => inner.retry_after(),
            None => self.own().0.row().retry_after,
        }
    }

    fn invalid_fields(&self) -> &[Invalid] {
        self.inner().map_or(&[], ServiceError::invalid_fields)
    }
}
