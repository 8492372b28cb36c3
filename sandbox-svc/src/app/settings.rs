//! Settings of the use cases. `config.rs` reads them; `config.default.toml` explains each key.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::domain::shape::Shape;

/// Everything that the operator sets for the use cases.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this installation, in labels of containers and volumes.
    pub installation: String,
    /// The guest's program on the engine's host.
    pub guest: PathBuf,
    pub shape: Shape,
    pub create: CreateSettings,
    pub lifetimes: Lifetimes,
    pub pool: PoolSettings,
    pub reconcile: ReconcileSettings,
    /// Share of the host's memory that sandboxes may be allotted.
    pub overcommit: f64,
}

/// How sandboxes are created.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSettings {
    /// Maximum sandboxes in creation on one engine.
    pub cap: u32,
    /// Longest wait in the queue.
    #[serde(with = "humantime_serde")]
    pub queue_deadline: Duration,
    /// Longest time to create a sandbox.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Longest time for the guest to answer.
    #[serde(with = "humantime_serde")]
    pub guest_deadline: Duration,
    /// Time to live of a worker's lease on a sandbox.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Longest time between two reads of the queue.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// How long sandboxes and workspaces last.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetimes {
    /// Longest time without use.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Longest life, also of a busy sandbox.
    #[serde(rename = "most", with = "humantime_serde")]
    pub max: Duration,
    /// Time that a removal should take.
    #[serde(with = "humantime_serde")]
    pub removal: Duration,
    /// Time that a workspace outlives its sandbox.
    #[serde(with = "humantime_serde")]
    pub volume_retention: Duration,
    /// Time between two sweeps for expired sandboxes.
    #[serde(with = "humantime_serde")]
    pub sweep_period: Duration,
}

/// Size and pace of the warm pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// Number of slots; 0 switches the pool off.
    pub size: u16,
    /// Longest time that a sandbox waits to be claimed.
    #[serde(with = "humantime_serde")]
    pub life: Duration,
    /// Time before the end of a pooled sandbox's life at which a replacement is requested.
    #[serde(with = "humantime_serde")]
    pub lead: Duration,
    /// Time between two passes.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Failures within the window that stop the filling of the pool.
    pub failures: u32,
    #[serde(with = "humantime_serde")]
    pub failure_window: Duration,
}

/// Settings of the reconciliation of rows and engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileSettings {
    /// Minimum time between two passes; a difference is acted on only if it was seen in passes at least this
    /// far apart. Also the time between two removals of expired workspaces.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Containers and directories younger than this are left alone.
    #[serde(with = "humantime_serde")]
    pub min_age: Duration,
    /// Time to live of the lease of the replica that reconciles; also of the replica that fills the pool, and
    /// of the one that removes workspaces.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}
