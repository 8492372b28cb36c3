//! The container engine, as few verbs as sandboxes need.
//!
//! An implementation says what it knows and nothing else: an answer is present or absent only if the engine said
//! so, and whatever went wrong on the way is [`Observed::Unknown`]. No verb retries. [`docker`] is the engine,
//! [`fake`] a simulator that can stall, fail, lose replies and create late, [`contract`] what both must do, and
//! [`limiter`] what every caller goes through.

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

/// An engine that components share.
pub type SharedEngine = Arc<dyn ContainerEngine>;

/// One container engine.
#[async_trait]
pub trait ContainerEngine: fmt::Debug + Send + Sync {
    /// Who it is and what it has. Also the health probe.
    async fn info(&self) -> Result<EngineInfo, Error>;

    /// The id of an image by name.
    async fn image(&self, name: &str) -> Observed<String>;

    /// Makes a container; it does not run yet. [`Error::Conflict`] if the name is taken.
    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error>;

    /// Starts a container; one that runs already is fine.
    async fn start(&self, id: &ContainerId) -> Result<(), Error>;

    /// Looks at one container.
    async fn observe(&self, handle: Handle<'_>) -> Observed<Container>;

    /// Ends and removes a container by force, its volumes not.
    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error>;

    /// Every container of an installation, in whatever state: all of them or an error.
    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error>;

    /// Makes a volume; one of that name and label is fine.
    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error>;

    /// Removes a volume. [`Error::Conflict`] while a container has it.
    async fn remove_volume(&self, name: &str) -> Result<Removal, Error>;

    /// Every volume of an installation: all of them or an error.
    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error>;
}

/// How a container is named to an engine.
#[derive(Debug, Clone, Copy)]
pub enum Handle<'a> {
    /// By its full id.
    Id(&'a ContainerId),
    /// By its full name.
    Name(&'a str),
}

impl Handle<'_> {
    /// The text engines take.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => &id.0,
            Self::Name(name) => name,
        }
    }
}

/// What a look at the engine found.
#[derive(Debug)]
pub enum Observed<T> {
    /// It is there.
    Present(T),
    /// The engine answered that it is not there.
    Absent,
    /// Nobody can say. It is never a reason to destroy anything.
    Unknown(Error),
}

impl<T> From<Result<T, Error>> for Observed<T> {
    fn from(answer: Result<T, Error>) -> Self {
        match answer {
            Ok(present) => Self::Present(present),
            Err(Error::NoSuch) => Self::Absent,
            Err(error) => Self::Unknown(error),
        }
    }
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was there and is removed.
    Removed,
    /// It was not there.
    Absent,
    /// Somebody else's removal of it runs; look again.
    InProgress,
}

/// Who an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The id it gave itself when it was installed.
    pub id: String,
    /// Bytes of memory of its host.
    pub memory_bytes: i64,
    /// Where it keeps images and containers.
    pub root: String,
}

/// A volume as its engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no such thing (404).
    #[error("engine has no such object")]
    NoSuch,
    /// Its state forbids it: the name is taken, the volume in use (409).
    #[error("engine reports a conflict: {0}")]
    Conflict(String),
    /// It refused the request and did nothing (other 4xx).
    #[error("engine refused the request ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It failed in the middle (5xx).
    #[error("engine failed ({status}): {message}")]
    Failed {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// No answer: it may have done it or not.
    #[error("engine cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time: it may have done it, or do it yet.
    #[error("engine did not answer within {0:?}")]
    TimedOut(Duration),
    /// Too many calls wait already; it was not asked.
    #[error("too many calls wait for the engine")]
    Busy,
    /// It failed so often that it is left alone for a while; it was not asked.
    #[error("engine is left alone after repeated failures")]
    BreakerOpen(Duration),
    /// It answered something that cannot be.
    #[error("engine sent an answer without {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether it is certain that nothing was done and nothing will be.
    #[must_use]
    pub const fn nothing_happened(&self) -> bool {
        match self {
            Self::NoSuch | Self::Conflict(_) | Self::Refused { .. } | Self::Busy | Self::BreakerOpen(_) => {
                true
            }
            Self::Failed { .. } | Self::Unreachable(_) | Self::TimedOut(_) | Self::Malformed(_) => false,
        }
    }

    /// Whether it tells of the engine itself rather than of what was asked.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) | Self::Busy | Self::BreakerOpen(_) => true,
            Self::NoSuch
            | Self::Conflict(_)
            | Self::Refused { .. }
            | Self::Failed { .. }
            | Self::Malformed(_) => false,
        }
    }
}
