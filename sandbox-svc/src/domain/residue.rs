//! The resources of a session or account outside Postgres, and the outcome of their removal.
//!
//! Answers of custody steps are stored with these types: their serialised names must not change.

use serde::{Deserialize, Serialize};

/// Kind of a resource outside Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    Container,
    /// The volume of a workspace.
    Volume,
    /// A directory on the host, mounted into a container.
    RunDirectory,
}

impl ResourceKind {
    pub const ALL: [Self; 3] = [Self::Container, Self::Volume, Self::RunDirectory];

    /// Name of the kind in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "docker.container",
            Self::Volume => "docker.volume",
            Self::RunDirectory => "sandbox.run_directory",
        }
    }
}

/// A resource outside Postgres.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    pub kind: ResourceKind,
    /// Id of the engine that has the container or the volume. For a run directory, the engine on the same
    /// host.
    pub engine: String,
    pub name: String,
}

impl Resource {
    /// Provider of the resource in the contract.
    pub fn provider(&self) -> String {
        match self.kind {
            ResourceKind::Container | ResourceKind::Volume => format!("docker:{}", self.engine),
            ResourceKind::RunDirectory => format!("host:{}", self.engine),
        }
    }
}

/// The outcome of a resource's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalOutcome {
    /// This call removed it.
    Removed,
    /// It was absent already.
    Absent,
    /// It may still be there; the removal must be repeated.
    #[serde(rename = "later")]
    Retry(RetryReason),
}

/// Why the removal of a resource must be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The engine did not answer, or failed.
    EngineUnavailable,
    /// Another process serves its engine.
    EngineElsewhere,
    /// The removal is committed but not confirmed.
    UnderWay,
    /// The host refused to delete it.
    HostRefused,
}

impl RetryReason {
    /// Code of the reason in the contract.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EngineUnavailable => "ENGINE_UNAVAILABLE",
            Self::EngineElsewhere => "ENGINE_ELSEWHERE",
            Self::UnderWay => "REMOVAL_UNDER_WAY",
            Self::HostRefused => "HOST_REFUSED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_names_its_provider() {
        let provider = |kind| Resource { kind, engine: "E".into(), name: "n".into() }.provider();
        assert_eq!(ResourceKind::ALL.map(provider), ["docker:E", "docker:E", "host:E"]);
    }
}
