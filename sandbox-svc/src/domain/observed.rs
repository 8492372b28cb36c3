//! Containers as their engine reports them.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use svc_core::id::SandboxId;

use super::spec::{ContainerSpec, Mount, label};

/// Full id of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container as its engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: ContainerId,
    pub name: String,
    /// Id of its image.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// Binds and volumes, sorted.
    pub mounts: Vec<Mount>,
    pub state: ContainerState,
    pub created_at: Option<DateTime<Utc>>,
}

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    /// Runs, or is about to stop or restart.
    Running,
    Paused,
    Removing,
    Exited,
}

impl Container {
    /// Returns the sandbox and the generation that the labels name, if both labels can be read.
    pub fn sandbox(&self) -> Option<(SandboxId, i64)> {
        let sandbox = SandboxId::parse(label::SANDBOX, self.labels.get(label::SANDBOX)?).ok()?;
        Some((sandbox, self.labels.get(label::GENERATION)?.parse().ok()?))
    }

    /// Whether this is the container of `spec`: same name, image, mounts and labels, apart from the creation
    /// time.
    pub fn matches(&self, spec: &ContainerSpec) -> bool {
        let mut mounts = spec.mounts.clone();
        mounts.sort();
        let labels = [label::INSTALLATION, label::ENGINE, label::SANDBOX, label::GENERATION];
        self.name == spec.name
            && self.image == spec.image
            && self.mounts == mounts
            && labels.into_iter().all(|name| self.labels.get(name) == spec.labels.get(name))
    }
}
