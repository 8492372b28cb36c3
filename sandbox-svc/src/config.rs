//! sandbox-svc's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use svc_core::{
    data::{pg::PgConfig, redis::RedisConfig},
    run::{process::ProcessConfig, telemetry::TelemetryConfig},
    wire::{assertion::IdentityConfig, client::PeerConfig, server::ServerConfig},
};

use crate::{domain::spec::Shape, engine::limiter::LimiterConfig};

/// Every key and its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Configuration of sandbox-svc.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the process runs.
    pub process: ProcessConfig,
    /// What it shows of itself.
    pub telemetry: TelemetryConfig,
    /// Who it is to the other services.
    pub identity: IdentityConfig,
    /// How it listens.
    pub server: ServerConfig,
    /// Its Postgres.
    pub pg: PgConfig,
    /// Its Redis.
    pub redis: RedisConfig,
    /// Who knows API tokens.
    pub registry: PeerConfig,
    /// Who knows sessions.
    pub chat: PeerConfig,
    /// Name of this installation: containers of others on the same engine are never touched.
    pub installation: String,
    /// The guest's program, on the engine's host.
    pub guest: PathBuf,
    /// Directory for run directories, on the engine's host.
    pub run_dir: PathBuf,
    /// The engine it serves.
    pub engine: EngineConfig,
    /// What sandboxes are made of.
    pub shape: Shape,
    /// How they are made.
    pub create: CreateConfig,
    /// How long things last.
    pub lifetimes: LifetimesConfig,
    /// The warm pool.
    pub pool: PoolConfig,
    /// The comparison of rows and engine.
    pub reconcile: ReconcileConfig,
    /// The engine's host.
    pub host: HostConfig,
}

/// The engine it serves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Where it listens.
    pub host: String,
    /// Bounds on its calls.
    pub limits: LimiterConfig,
}

/// How sandboxes are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateConfig {
    /// Made at once on one engine; 0 makes none here.
    pub cap: u32,
    /// Longest wait in the queue.
    #[serde(with = "humantime_serde")]
    pub queue_deadline: Duration,
    /// Longest time to make one.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Longest time for the guest to answer.
    #[serde(with = "humantime_serde")]
    pub guest_deadline: Duration,
    /// Lease of a worker on a sandbox.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Reads of the queue without a wake-up.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// How long things last.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimesConfig {
    /// Longest time unused.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Longest life.
    #[serde(with = "humantime_serde")]
    pub most: Duration,
    /// Time a removal should take.
    #[serde(with = "humantime_serde")]
    pub removal: Duration,
    /// How long a workspace outlives its sandbox.
    #[serde(with = "humantime_serde")]
    pub volume_retention: Duration,
    /// Looks at deadlines.
    #[serde(with = "humantime_serde")]
    pub sweep_period: Duration,
}

/// The warm pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Places.
    pub size: u16,
    /// How long one waits to be claimed.
    #[serde(with = "humantime_serde")]
    pub life: Duration,
    /// How long before that its replacement is made.
    #[serde(with = "humantime_serde")]
    pub lead: Duration,
    /// Looks at the pool.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Failures within the window after which it is left alone.
    pub failures: u32,
    /// The window.
    #[serde(with = "humantime_serde")]
    pub failure_window: Duration,
}

/// The comparison of rows and engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileConfig {
    /// Time between two sightings.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Younger things are left alone.
    #[serde(with = "humantime_serde")]
    pub min_age: Duration,
    /// Lease of the replica that does it.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

/// The engine's host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Where the kernel shows its state.
    pub proc_root: PathBuf,
    /// How often it is read.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Share of its memory that may be promised.
    pub overcommit: f64,
}

/// A value that parses and yet cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} {problem}")]
pub struct Unusable {
    key: &'static str,
    problem: &'static str,
}

impl Config {
    /// Loads the configuration: defaults ← `file` ← environment.
    ///
    /// # Errors
    /// [`svc_core::run::config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, svc_core::run::config::Error> {
        svc_core::run::config::load("sandbox", DEFAULTS, file)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`Unusable`] names the key.
    pub fn check(&self) -> Result<(), Unusable> {
        let label = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let rules = [
            (label(&self.installation), "installation", "must be 1 to 64 of [A-Za-z0-9_.-]"),
            (self.guest.is_absolute(), "guest", "must be an absolute path"),
            (self.run_dir.is_absolute(), "run_dir", "must be an absolute path"),
            (!self.shape.image.is_empty(), "shape.image", "must name an image"),
            (self.shape.cpu_millis > 0, "shape.cpu_millis", "must be positive"),
            (self.shape.memory_bytes >= 16 << 20, "shape.memory_bytes", "must be at least 16 MiB"),
            (self.engine.limits.changes > 0, "engine.limits.changes", "must be positive"),
            (self.engine.limits.looks > 0, "engine.limits.looks", "must be positive"),
            (self.host.overcommit > 0.0, "host.overcommit", "must be positive"),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            None => Ok(()),
            Some((_, key, problem)) => Err(Unusable { key, problem }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the keys that have no default, and `more`.
    fn load(more: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "installation = 'test'\nguest = '/guest'\npg.url = 'postgres://x@localhost/x'\n\
             redis.url = 'redis://localhost'\nshape.image = 'image'\n{more}"
        );
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_is_a_configuration_but_for_what_has_no_default() {
        let config = load("").unwrap();
        config.check().unwrap();
        assert_eq!((config.create.cap, config.pool.size, config.server.listen.port()), (4, 0, 7102));
        assert!(Config::load(None).is_err());
    }

    #[test]
    fn a_key_that_is_misspelt_is_refused() {
        let error = load("[lifetimes]\nidel = '1s'\n").unwrap_err().to_string();
        assert!(error.contains("idel"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_name() {
        let config = load("[host]\novercommit = 0.0\n").unwrap();
        assert_eq!(config.check().unwrap_err().to_string(), "host.overcommit must be positive");
        let config = load("shape.memory_bytes = 5\n").unwrap();
        assert!(config.check().unwrap_err().to_string().starts_with("shape.memory_bytes"));
    }
}
