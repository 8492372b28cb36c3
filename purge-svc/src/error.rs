//! What can go wrong in a request, by what its caller should do.

use svc_core::{
    data::{idempotency, pg},
    wire::{
        client::CallError,
        error::{ErrorKind, Invalid, PublicError, ServiceError},
        principal,
    },
};

use crate::domain::job;

/// What is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A session; of somebody else, perhaps.
    Session,
    /// A job.
    Purge,
    /// A hold.
    Hold,
    /// A dead letter.
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

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller may not.
    #[error(transparent)]
    Principal(#[from] principal::Refused),
    /// There is no such thing, for this caller.
    #[error("no such {}", .0.name())]
    NotFound(Entity),
    /// The point of no return was passed.
    #[error("erasure has started")]
    ErasureStarted,
    /// The job's machine refused what only a defect here could have asked of it.
    #[error("job refused a transition")]
    Machine(#[source] job::Refused),
    /// The idempotency key stands in the way.
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    /// chat-svc could not say whether the session exists.
    #[error("ask for the session")]
    Sessions(#[from] CallError),
    /// The database did not do it.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl From<job::Refused> for Error {
    fn from(refused: job::Refused) -> Self {
        match refused {
            job::Refused::ErasureStarted => Self::ErasureStarted,
            job::Refused::Final | job::Refused::GivingUp | job::Refused::OutOfOrder { .. } => {
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
