//! Why sandbox-svc refuses or fails a request.

use std::time::Duration;

use svc_core::{
    custody,
    data::{idempotency, pg},
    error::{ErrorKind, Invalid, PublicError, ServiceError},
    wire::{client::CallError, principal},
};

use crate::{
    client::guest::{self, Refusal},
    domain::{sandbox::State, transition::InvalidTransition},
    engine, run_dirs,
};

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Time after which a caller should ask again about a sandbox that is being created.
const SOON: Duration = Duration::from_secs(1);

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's credential names no account.
    #[error(transparent)]
    Principal(#[from] principal::Refused),
    /// The account has no such sandbox.
    #[error("no such sandbox")]
    NotFound,
    /// The account has no such session.
    #[error("no such session")]
    SessionNotFound,
    /// The sandbox is in a state without a guest.
    #[error("sandbox is {0:?}")]
    NotRunning(State),
    /// The sandbox cannot change as asked in its present state.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
    /// The exec key was used for another call.
    #[error("exec key was used for another call")]
    KeyReused,
    /// The idempotency key was used for another request, or its first request is running.
    #[error(transparent)]
    Idempotency(#[from] idempotency::Error),
    /// The engine has not reported its id yet.
    #[error("engine has not reported its id yet")]
    EngineUnknown,
    /// Another process serves the sandbox's engine.
    #[error("engine {0} is not served here")]
    ServedElsewhere(String),
    /// Another daemon answers at the address of this process's engine.
    #[error("engine {0} answers in place of this one")]
    OtherEngine(String),
    /// The engine's sandboxes have their run directories in another place.
    #[error("run directories of the engine are not in {0}, where this process looks for them")]
    OtherRunDirectories(String),
    /// The engine refused, failed or did not answer.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The engine's host refused to make, list or remove a run directory.
    #[error(transparent)]
    RunDirectory(#[from] run_dirs::Error),
    /// The guest refused, failed or did not answer.
    #[error(transparent)]
    Guest(#[from] guest::Error),
    /// chat-svc did not say whether the account has the session.
    #[error("ask chat-svc about the session")]
    Sessions(#[from] CallError),
    /// The process is stopping.
    #[error("process is stopping")]
    Stopping,
    /// A step of an erasure was refused.
    #[error(transparent)]
    Custody(#[from] custody::Error),
    /// Postgres refused, failed or did not answer.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl Error {
    /// Whether the write lost a race: another writer changed the row first, the lease was taken over or
    /// released, or Postgres reported a serialization failure or a deadlock.
    pub const fn is_race(&self) -> bool {
        matches!(self, Self::Pg(pg::Error::Stale { .. } | pg::Error::Fenced(_) | pg::Error::Race(_)))
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        let unavailable = || {
            let text = "the container engine is not available";
            PublicError::new(ErrorKind::Unavailable, "ENGINE_UNAVAILABLE", text)
        };
        let not_running = |text| PublicError::new(ErrorKind::FailedPrecondition, "SANDBOX_NOT_RUNNING", text);
        match self {
            Self::Invalid(error) => error.public(),
            Self::Principal(error) => error.public(),
            Self::NotFound | Self::SessionNotFound => {
                PublicError::of_kind(ErrorKind::NotFound, self.to_string())
            }
            Self::NotRunning(State::Requested | State::Creating) => {
                not_running("this sandbox is still being made").retry_after(SOON)
            }
            Self::NotRunning(State::Running | State::Deleting | State::Gone | State::Failed) => {
                not_running("this sandbox is not running any more")
            }
            Self::InvalidTransition(_) => {
                PublicError::of_kind(ErrorKind::FailedPrecondition, "this sandbox is in another state")
            }
            Self::KeyReused => {
                let text = "this key was used for another call";
                PublicError::new(ErrorKind::AlreadyExists, "EXEC_KEY_REUSED", text)
            }
            Self::Idempotency(error) => error.public(),
            Self::Engine(engine::Error::BreakerOpen(rest)) => unavailable().retry_after(*rest),
            Self::EngineUnknown
            | Self::ServedElsewhere(_)
            | Self::OtherEngine(_)
            | Self::OtherRunDirectories(_)
            | Self::RunDirectory(_)
            | Self::Engine(_) => unavailable(),
            Self::Guest(error) => guest(error),
            Self::Sessions(error) => error.public(),
            Self::Stopping => {
                PublicError::of_kind(ErrorKind::Unavailable, "this server is stopping, try again")
            }
            Self::Custody(error) => error.public(),
            Self::Pg(error) => error.public(),
        }
    }
}

svc_core::into_status!(Error);

fn guest(error: &guest::Error) -> PublicError {
    let unreachable =
        |kind, reason: &'static str| PublicError::new(kind, reason, "this sandbox cannot be reached");
    match error {
        guest::Error::Refused { why, message } => {
            let (kind, reason) = match why {
                Refusal::BadPath => {
                    // The guest's sentence begins with the field.
                    let problem = message.strip_prefix("the path ").unwrap_or(message);
                    return Invalid::new("path", problem.to_owned()).public();
                }
                Refusal::Invalid => (ErrorKind::InvalidArgument, "INVALID_ARGUMENT"),
                Refusal::NotFound => (ErrorKind::NotFound, "FILE_NOT_FOUND"),
                Refusal::TooLarge => (ErrorKind::PayloadTooLarge, "FILE_TOO_LARGE"),
                Refusal::Denied => (ErrorKind::FailedPrecondition, "FILE_DENIED"),
                Refusal::NotUsable => (ErrorKind::FailedPrecondition, "FILE_NOT_USABLE"),
                Refusal::Busy => (ErrorKind::ResourceExhausted, "SANDBOX_BUSY"),
            };
            PublicError::new(kind, reason, message.clone())
        }
        guest::Error::TimedOut | guest::Error::Unreachable(_) => PublicError::new(
            ErrorKind::DeadlineExceeded,
            "OUTCOME_UNKNOWN",
            "outcome unknown: repeat with the same key, or resolve it",
        ),
        // A process in the sandbox replaced the guest, or the guest restarted: the caller needs another
        // sandbox.
        guest::Error::OtherInstance => unreachable(ErrorKind::FailedPrecondition, "SANDBOX_RESTARTED"),
        guest::Error::NotASocket => unreachable(ErrorKind::FailedPrecondition, "SANDBOX_UNREACHABLE"),
        guest::Error::RunDirectory(_) | guest::Error::NoSocket | guest::Error::InvalidAnswer(_) => {
            unreachable(ErrorKind::Unavailable, "SANDBOX_UNREACHABLE")
        }
    }
}
