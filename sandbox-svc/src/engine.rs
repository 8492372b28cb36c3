//! The container engine, with the few calls that sandboxes need.
//!
//! An implementation returns [`Observed::Present`] or [`Observed::Absent`] only if the engine answered so;
//! after every failure it returns [`Observed::Unknown`]. No call is retried here. [`docker`] is the real
//! engine. [`fake`] is a simulator that can stall, fail, lose answers and create containers late.
//! [`contract`] tests both. Every caller goes through [`limiter`].

#[cfg(any(test, feature = "test-util"))]
pub mod contract;
pub mod docker;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod limiter;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use crate::domain::observed::{Container, ContainerId, ContainerState};
use crate::domain::spec::{ContainerSpec, VolumeSpec};

pub type SharedEngine = Arc<dyn ContainerEngine>;

/// The verbs of an engine.
#[async_trait]
pub trait ContainerEngine: fmt::Debug + Send + Sync {
    /// Reads the engine's identity and resources. Also called every minute to check that the engine answers.
    async fn info(&self) -> Result<EngineInfo, Error>;

    /// Finds the id of the image with this name.
    async fn image(&self, name: &str) -> Observed<String>;

    /// Creates a container without starting it. Fails with [`Error::Conflict`] if the name is taken.
    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error>;

    /// Starts a container. Succeeds if it runs already.
    async fn start(&self, id: &ContainerId) -> Result<(), Error>;

    /// Reads a single container.
    async fn observe(&self, handle: Handle<'_>) -> Observed<Container>;

    /// Kills and removes a container, but not its named volumes.
    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error>;

    /// Lists every container of an installation in any state. Fails if the list would be incomplete.
    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error>;

    /// Creates a volume. Succeeds if one with this name and these labels exists.
    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error>;

    /// Removes a volume. Fails with [`Error::Conflict`] while a container mounts it.
    async fn remove_volume(&self, name: &str) -> Result<Removal, Error>;

    /// Lists every volume of an installation. Fails if the list would be incomplete.
    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error>;
}

/// How a caller names a container to an engine.
#[derive(Debug, Clone, Copy)]
pub enum Handle<'a> {
    Id(&'a ContainerId),
    Name(&'a str),
}

impl Handle<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => &id.0,
            Self::Name(name) => name,
        }
    }
}

/// The answer to a read.
#[derive(Debug)]
pub enum Observed<T> {
    /// The engine has the object.
    Present(T),
    /// The engine answered that it does not have the object.
    Absent,
    /// The engine did not answer, or failed. Callers never remove anything because of this.
    Unknown(Error),
}

impl<T> From<Result<T, Error>> for Observed<T> {
    fn from(answer: Result<T, Error>) -> Self {
        match answer {
            Ok(present) => Self::Present(present),
            Err(Error::NotFound) => Self::Absent,
            Err(error) => Self::Unknown(error),
        }
    }
}

impl<T> Observed<T> {
    /// Returns the object, or `None` if the engine does not have it.
    ///
    /// # Errors
    /// The error of [`Self::Unknown`].
    pub fn known(self) -> Result<Option<T>, Error> {
        match self {
            Self::Present(present) => Ok(Some(present)),
            Self::Absent => Ok(None),
            Self::Unknown(error) => Err(error),
        }
    }
}

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The object existed and is removed.
    Removed,
    /// The object did not exist.
    Absent,
    /// Another removal of the object is running; a later read shows when the object is gone.
    InProgress,
}

/// Identity and resources of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The id that the engine generated when it was installed.
    pub id: String,
    /// Bytes of memory of its host.
    pub memory_bytes: i64,
    /// Directory on its host for images and containers.
    pub root: String,
}

/// A volume as its engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not have the object (404).
    #[error("engine has no such object")]
    NotFound,
    /// The object's state does not allow it: the name is taken, or the volume in use (409).
    #[error("engine reports a conflict: {0}")]
    Conflict(String),
    /// The engine refused the request and did nothing (other 4xx).
    #[error("engine refused the request ({status}): {message}")]
    Refused { status: u16, message: String },
    /// The engine failed, perhaps after a part of the work (5xx).
    #[error("engine failed ({status}): {message}")]
    Failed { status: u16, message: String },
    /// The engine gave no answer: it may or may not have carried out the request.
    #[error("engine cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine gave no answer in time: it may have carried out the request, or may still do so.
    #[error("engine did not answer within {0:?}")]
    TimedOut(Duration),
    /// Too many calls wait for a permit, or no permit became free in time. No request was sent to the engine.
    #[error("too many calls wait for the engine")]
    Busy,
    /// The circuit breaker is open, so no request was sent to the engine. The value is the time until the
    /// breaker admits a call again.
    #[error("engine's circuit breaker is open after repeated failures")]
    BreakerOpen(Duration),
    /// The answer lacks a required part.
    #[error("engine sent an answer without {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the engine did not answer, or no request was sent to it. The circuit breaker counts a call
    /// that the engine did not answer as a failure.
    pub const fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Busy | Self::BreakerOpen(_) => true,
            Self::NotFound
            | Self::Conflict(_)
            | Self::Refused { .. }
            | Self::Failed { .. }
            | Self::Malformed(_) => false,
        }
    }
}
