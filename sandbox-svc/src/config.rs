//! The configuration of sandbox-svc. `config.default.toml` has every key with its default and its meaning.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use svc_core::{
    base::{RetentionConfig, ServiceConfig},
    run::config::Unusable,
    wire::client::PeerConfig,
};

use crate::{
    app::settings::{CreateSettings, Lifetimes, PoolSettings, ReconcileSettings, Settings},
    domain::{limits::LimiterSettings, shape::Shape},
};

/// The whole configuration of sandbox-svc.
pub type Config = svc_core::base::Config<OwnConfig>;

/// The keys that only sandbox-svc has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnConfig {
    /// registry-svc, which resolves API tokens.
    pub registry: PeerConfig,
    /// chat-svc, which owns sessions.
    pub chat: PeerConfig,
    pub installation: String,
    pub guest: PathBuf,
    pub run_dir: PathBuf,
    pub engine: EngineConfig,
    pub shape: Shape,
    pub create: CreateSettings,
    pub lifetimes: Lifetimes,
    pub pool: PoolSettings,
    pub reconcile: ReconcileSettings,
    pub host: HostConfig,
    /// Deletion of expired idempotency keys.
    pub retention: RetentionConfig,
}

/// The container engine of this process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Address of the daemon.
    pub host: String,
    pub limits: LimiterSettings,
}

/// The host of the engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Directory with the kernel's files about the host, as `/proc`.
    pub proc_root: PathBuf,
    /// Time between two samples.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Share of its memory that sandboxes may be allotted.
    pub overcommit: f64,
}

impl OwnConfig {
    /// Returns the settings of the use cases.
    pub fn settings(&self) -> Settings {
        Settings {
            installation: self.installation.clone(),
            guest: self.guest.clone(),
            shape: self.shape.clone(),
            create: self.create.clone(),
            lifetimes: self.lifetimes.clone(),
            pool: self.pool.clone(),
            reconcile: self.reconcile.clone(),
            overcommit: self.host.overcommit,
        }
    }
}

impl ServiceConfig for OwnConfig {
    const NAME: &'static str = crate::NAME;
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn check(&self) -> Result<(), Unusable> {
        let label = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        Unusable::check([
            (label(&self.installation), "installation", "must be 1 to 64 of [A-Za-z0-9_.-]"),
            (self.guest.is_absolute(), "guest", "must be an absolute path"),
            (self.run_dir.is_absolute(), "run_dir", "must be an absolute path"),
            (!self.shape.image.is_empty(), "shape.image", "must name an image"),
            (self.shape.cpu_millis > 0, "shape.cpu_millis", "must be positive"),
            (self.shape.memory_bytes >= 16 << 20, "shape.memory_bytes", "must be at least 16 MiB"),
            (self.engine.limits.changes > 0, "engine.limits.changes", "must be positive"),
            (self.engine.limits.looks > 0, "engine.limits.looks", "must be positive"),
            (self.host.overcommit > 0.0, "host.overcommit", "must be positive"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a file with the keys that have no default, and `more`.
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
    fn the_default_file_lacks_only_keys_without_a_default() {
        let config = load("").unwrap();
        config.own.check().unwrap();
        let listen = config.base.server.listen.port();
        assert_eq!((config.own.create.cap, config.own.pool.size, listen), (4, 0, 7102));
        assert!(Config::load(None).is_err());
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = load("[lifetimes]\nidel = '1s'\n").unwrap_err().to_string();
        assert!(error.contains("idel"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let config = load("[host]\novercommit = 0.0\n").unwrap();
        assert_eq!(
            config.own.check().unwrap_err().to_string(),
            "configuration: host.overcommit must be positive"
        );
        let config = load("shape.memory_bytes = 5\n").unwrap();
        assert!(config.own.check().unwrap_err().to_string().contains("shape.memory_bytes"));
    }
}
