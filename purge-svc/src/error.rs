//! Errors of requests, and how callers see them.

use svc_core::{
    data::{idempotency, pg},
    error::{ErrorKind, Invalid, PublicError, ServiceError},
    wire::{client::CallError, principal},
};

use crate::domain::job;

/// An object that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    Session,
    Purge,
    Hold,
    DeadLetter,
}

impl Entity {
    const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Purge => "purge",
            Self::Hold => "hold",
            Self::DeadLetter => "dead letter",
        }
    }
}

/// Reason for which a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's credential does not allow the request.
    #[error(transparent)]
    Principal(#[from] principal::Refused),
    /// The object does not exist for this caller.
    #[error("no such {}", .0.name())]
    NotFound(Entity),
    /// The point of no return is passed.
    #[error("erasure has started")]
    ErasureStarted,
    /// The job's state machine refused an input, which only a defect of purge-svc can cause.
    #[error("job refused a transition")]
    Machine(#[source] job::Refused),
    /// The idempotency key was used for another request, or the first request with this key is still in
    /// progress.
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    /// chat-svc could not say whether the session exists.
    #[error("ask for the session")]
    Sessions(#[from] CallError),
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl From<job::Refused> for Error {
    fn from(refused: job::Refused) -> Self {
        match refused {
            job::Refused::ErasureStarted => Self::ErasureStarted,
            job::Refused::Final | job::Refused::Canceling | job::Refused::OutOfOrder { .. } => {
                Self::Machine(refused)
            }
        }
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        match self {
            Self::Invalid(error) => error.public(),
            Self::Principal(error) => error.public(),
            Self::NotFound(_) => PublicError::of_kind(ErrorKind::NotFound, self.to_string()),
            Self::ErasureStarted => PublicError::new(
                ErrorKind::FailedPrecondition,
                "ERASURE_STARTED",
                "its erasure has started and cannot be stopped any more",
            ),
            Self::Machine(_) => PublicError::internal(),
            Self::Idempotency(error) => error.public(),
            Self::Sessions(error) => error.public(),
            Self::Pg(error) => error.public(),
        }
    }
}

svc_core::into_status!(Error);
