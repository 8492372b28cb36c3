//! What can go wrong in a request, by what its caller should do.

use std::{borrow::Cow, time::Duration};

use svc_core::{
    data::{idempotency, pg},
    wire::{
        client::CallError,
        error::{ErrorKind, Invalid, ServiceError},
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
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(error) => error.kind(),
            Self::Principal(error) => error.kind(),
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::ErasureStarted => ErrorKind::FailedPrecondition,
            Self::Machine(_) => ErrorKind::Internal,
            Self::Idempotency(error) => error.kind(),
            Self::Sessions(error) => error.kind(),
            Self::Pg(error) => error.kind(),
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::ErasureStarted => "ERASURE_STARTED".into(),
            Self::Principal(error) => error.reason(),
            Self::Idempotency(error) => error.reason(),
            Self::Sessions(error) => error.reason(),
            Self::Pg(error) => error.reason(),
            Self::Invalid(_) | Self::NotFound(_) | Self::Machine(_) => self.kind().row().reason.into(),
        }
    }

    fn public_message(&self) -> Cow<'static, str> {
        match self {
            Self::Invalid(error) => error.public_message(),
            Self::Principal(error) => error.public_message(),
            Self::NotFound(_) => Cow::Owned(self.to_string()),
            Self::ErasureStarted => "its erasure has started and cannot be stopped any more".into(),
            Self::Machine(_) => "internal error".into(),
            Self::Idempotency(error) => error.public_message(),
            Self::Sessions(error) => error.public_message(),
            Self::Pg(error) => error.public_message(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Idempotency(error) => error.retry_after(),
            Self::Sessions(error) => error.retry_after(),
            Self::Pg(error) => error.retry_after(),
            Self::Invalid(_)
            | Self::Principal(_)
            | Self::NotFound(_)
            | Self::ErasureStarted
            | Self::Machine(_) => self.kind().row().retry_after,
        }
    }

    fn invalid_fields(&self) -> &[Invalid] {
        match self {
            Self::Invalid(error) => error.invalid_fields(),
            Self::Principal(_)
            | Self::NotFound(_)
            | Self::ErasureStarted
            | Self::Machine(_)
            | Self::Idempotency(_)
            | Self::Sessions(_)
            | Self::Pg(_) => &[],
        }
    }
}
