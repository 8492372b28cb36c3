//! What a subject has outside Postgres, and what became of it.

use serde::{Deserialize, Serialize};

/// What a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThingKind {
    /// A container.
    Container,
    /// A workspace's volume.
    Volume,
    /// A directory that was mounted into a container.
    RunDirectory,
}

impl ThingKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Container, Self::Volume, Self::RunDirectory];

    /// Its name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "docker.container",
            Self::Volume => "docker.volume",
            Self::RunDirectory => "sandbox.run_directory",
        }
    }
}

/// One thing outside Postgres.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thing {
    /// What it is.
    pub kind: ThingKind,
    /// The engine that has it, itself or on its host.
    pub engine: String,
    /// Its name there.
    pub name: String,
}

impl Thing {
    /// Who keeps it, in the contract.
    #[must_use]
    pub fn provider(&self) -> String {
        match self.kind {
            ThingKind::Container | ThingKind::Volume => format!("docker:{}", self.engine),
            ThingKind::RunDirectory => format!("host:{}", self.engine),
        }
    }
}

/// What became of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was removed now.
    Removed,
    /// It was absent already.
    Absent,
    /// Nobody can say, or it could not be removed now.
    Later(Hindrance),
}

/// Why a thing could not be removed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// The engine did not answer, or failed.
    EngineUnavailable,
    /// This process does not serve its engine.
    EngineElsewhere,
    /// Its removal is committed and not confirmed yet.
    UnderWay,
    /// The host did not let go of it.
    HostRefused,
}

impl Hindrance {
    /// Its code in the contract.
    #[must_use]
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
    fn a_thing_says_who_keeps_it() {
        let keeper = |kind| Thing { kind, engine: "E".into(), name: "n".into() }.provider();
        assert_eq!(ThingKind::ALL.map(keeper), ["docker:E", "docker:E", "host:E"]);
    }
}
