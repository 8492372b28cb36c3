//! Why sandbox-svc did not do what it was asked.

use std::{borrow::Cow, time::Duration};

use svc_core::{
    custody,
    data::pg,
    wire::{
        error::{ErrorKind, Invalid, ServiceError},
        principal,
    },
};

use crate::{
    client::guest::{self, Refusal},
    domain::sandbox::{Refused, State},
    engine,
};

/// Result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// When to look again at a sandbox that is being made or removed.
const SOON: Duration = Duration::from_secs(1);

/// Why sandbox-svc did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's credential does not fit.
    #[error(transparent)]
    Principal(#[from] principal::Refused),
    /// There is no such sandbox, or it is another tenant's.
    #[error("no such sandbox")]
    NotFound,
    /// There is no such session, or it is another tenant's.
    #[error("no such session")]
    SessionNotFound,
    /// It does not run (yet, or any more).
    #[error("sandbox is {0:?}")]
    NotRunning(State),
    /// What was asked for cannot happen to it now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The key was used for another call.
    #[error("exec key was used for another call")]
    KeyReused,
    /// The engine has not said who it is yet.
    #[error("engine is not known yet")]
    EngineAway,
    /// It lives on an engine that this process does not serve.
    #[error("engine {0} is not served here")]
    Elsewhere(String),
    /// Another engine answers at the address of this one.
    #[error("engine {0} answers in place of this one")]
    OtherEngine(String),
    /// Sandboxes of the engine have their run directories elsewhere, so those here revoke nothing.
    #[error("run directories of the engine are not in {0}, where this process looks for them")]
    OtherRunDirectories(String),
    /// The engine did not do it.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The guest did not do it.
    #[error(transparent)]
    Guest(#[from] guest::Error),
    /// The process is stopping.
    #[error("process is stopping")]
    Stopping,
    /// A step of an erasure was refused.
    #[error(transparent)]
    Custody(#[from] custody::Error),
    /// The database did not do it.
    #[error(transparent)]
    Pg(#[from] pg::Error),
}

impl Error {
    /// Whether somebody else changed the sandbox, or took it over, meanwhile.
    #[must_use]
    pub const fn is_race(&self) -> bool {
        matches!(self, Self::Pg(pg::Error::Stale { .. } | pg::Error::Fenced(_) | pg::Error::Race(_)))
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(error) => error.kind(),
            Self::Principal(error) => error.kind(),
            Self::NotFound | Self::SessionNotFound => ErrorKind::NotFound,
            Self::NotRunning(_) | Self::Refused(_) => ErrorKind::FailedPrecondition,
            Self::KeyReused => ErrorKind::AlreadyExists,
            Self::EngineAway
            | Self::Elsewhere(_)
            | Self::OtherEngine(_)
            | Self::OtherRunDirectories(_)
            | Self::Engine(_)
            | Self::Stopping => ErrorKind::Unavailable,
            Self::Guest(error) => guest_kind(error),
            Self::Custody(error) => error.kind(),
            Self::Pg(error) => error.kind(),
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::NotRunning(_) => "SANDBOX_NOT_RUNNING".into(),
            Self::KeyReused => "EXEC_KEY_REUSED".into(),
            Self::EngineAway
            | Self::Elsewhere(_)
            | Self::OtherEngine(_)
            | Self::OtherRunDirectories(_)
            | Self::Engine(_) => "ENGINE_UNAVAILABLE".into(),
            Self::Guest(error) => guest_reason(error).into(),
            Self::Custody(error) => error.reason(),
            Self::Pg(error) => error.reason(),
            Self::Invalid(_)
            | Self::Principal(_)
            | Self::NotFound
            | Self::SessionNotFound
            | Self::Refused(_)
            | Self::Stopping => self.kind().row().reason.into(),
        }
    }

    fn public_message(&self) -> Cow<'static, str> {
        match self {
            Self::Invalid(error) => error.public_message(),
            Self::Principal(error) => error.public_message(),
            Self::NotFound => "no such sandbox".into(),
            Self::SessionNotFound => "no such session".into(),
            Self::NotRunning(State::Requested | State::Creating) => "this sandbox is still being made".into(),
            Self::NotRunning(_) => "this sandbox is not running any more".into(),
            Self::Refused(_) => "this sandbox is in another state".into(),
            Self::KeyReused => "this key was used for another call".into(),
            Self::EngineAway
            | Self::Elsewhere(_)
            | Self::OtherEngine(_)
            | Self::OtherRunDirectories(_)
            | Self::Engine(_) => "the container engine is not available".into(),
            Self::Guest(guest::Error::Refused { message, .. }) => Cow::Owned(message.clone()),
            Self::Guest(guest::Error::TimedOut | guest::Error::Unreachable(_)) => {
                "outcome unknown: repeat with the same key, or resolve it".into()
            }
            Self::Guest(_) => "this sandbox cannot be reached".into(),
            Self::Stopping => "try again".into(),
            Self::Custody(error) => error.public_message(),
            Self::Pg(error) => error.public_message(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotRunning(State::Requested | State::Creating) => Some(SOON),
            Self::Engine(engine::Error::BreakerOpen(rest)) => Some(*rest),
            Self::Custody(error) => error.retry_after(),
            Self::Pg(error) => error.retry_after(),
            _ => self.kind().row().retry_after,
        }
    }

    fn invalid_fields(&self) -> &[Invalid] {
        match self {
            Self::Invalid(error) => error.invalid_fields(),
            _ => &[],
        }
    }
}

fn guest_kind(error: &guest::Error) -> ErrorKind {
    match error {
        guest::Error::Refused { why, .. } => match why {
            Refusal::Invalid => ErrorKind::InvalidArgument,
            Refusal::NotFound => ErrorKind::NotFound,
            Refusal::TooLarge => ErrorKind::PayloadTooLarge,
            Refusal::Denied | Refusal::NotUsable => ErrorKind::FailedPrecondition,
            Refusal::Busy => ErrorKind::ResourceExhausted,
        },
        guest::Error::TimedOut | guest::Error::Unreachable(_) => ErrorKind::DeadlineExceeded,
        // What runs in the sandbox took the guest's place: only another sandbox helps.
        guest::Error::OtherInstance | guest::Error::NotASocket => ErrorKind::FailedPrecondition,
        guest::Error::RunDirectory(_) | guest::Error::NoSocket | guest::Error::Nonsense(_) => {
            ErrorKind::Unavailable
        }
    }
}

fn guest_reason(error: &guest::Error) -> &'static str {
    match error {
        guest::Error::Refused { why, .. } => match why {
            Refusal::Invalid => "INVALID_ARGUMENT",
            Refusal::NotFound => "FILE_NOT_FOUND",
            Refusal::TooLarge => "FILE_TOO_LARGE",
            Refusal::Denied => "FILE_DENIED",
            Refusal::NotUsable => "FILE_NOT_USABLE",
            Refusal::Busy => "SANDBOX_BUSY",
        },
        guest::Error::TimedOut | guest::Error::Unreachable(_) => "OUTCOME_UNKNOWN",
        guest::Error::OtherInstance => "SANDBOX_RESTARTED",
        guest::Error::RunDirectory(_)
        | guest::Error::NoSocket
        | guest::Error::NotASocket
        | guest::Error::Nonsense(_) => "SANDBOX_UNREACHABLE",
    }
}
