//! Containers as an engine shows them.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use svc_core::id::SandboxId;

use super::spec::{ContainerSpec, Mount, label};

/// Full id of a container, as its engine gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container as its engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Full id.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// Image id.
    pub image: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Binds and volumes, sorted.
    pub mounts: Vec<Mount>,
    /// What it does.
    pub state: ContainerState,
    /// When the engine made it.
    pub created_at: Option<DateTime<Utc>>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs (or is about to end or to run again).
    Running,
    /// Frozen.
    Paused,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
}

impl Container {
    /// The sandbox and its generation that the labels name.
    #[must_use]
    pub fn sandbox(&self) -> Option<(SandboxId, i64)> {
        let sandbox = SandboxId::parse(label::SANDBOX, self.labels.get(label::SANDBOX)?).ok()?;
        Some((sandbox, self.labels.get(label::GENERATION)?.parse().ok()?))
    }

    /// Whether this is the container that `spec` asks for: same name, labels, image and mounts.
    /// Only the time at which it was asked for may differ.
    #[must_use]
    pub fn is_of(&self, spec: &ContainerSpec) -> bool {
        let mut mounts = spec.mounts.clone();
        mounts.sort();
        let labels = [label::INSTALLATION, label::ENGINE, label::SANDBOX, label::GENERATION];
        self.name == spec.name
            && self.image == spec.image
            && self.mounts == mounts
            && labels.iter().all(|name| self.labels.get(*name) == spec.labels.get(name))
    }
}
