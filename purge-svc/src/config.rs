//! purge-svc's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use svc_core::{
    data::{pg::PgConfig, redis::RedisConfig},
    run::{backoff::Backoff, process::ProcessConfig, telemetry::TelemetryConfig},
    wire::{assertion::IdentityConfig, client::PeerConfig, server::ServerConfig},
};

use crate::domain::{schedule::Policy, subject::Trigger};

/// Every key and its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Configuration of purge-svc.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Triggers whose jobs are worked on.
    #[serde(deserialize_with = "triggers")]
    pub triggers: Vec<Trigger>,
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
    /// The owners of data.
    pub peers: PeersConfig,
    /// What each of them must hold.
    pub required_kinds: KindsConfig,
    /// API tokens.
    pub tokens: TokensConfig,
    /// How jobs are taken.
    pub worker: WorkerConfig,
    /// How failed steps are retried.
    pub retry: RetryConfig,
    /// Rows that no longer count.
    pub retention: RetentionConfig,
}

/// The owners of data.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersConfig {
    /// chat-svc.
    pub chat: PeerConfig,
    /// sandbox-svc.
    pub sandbox: PeerConfig,
    /// registry-svc.
    pub registry: PeerConfig,
}

/// Kinds of resource that each owner must declare.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindsConfig {
    /// Of chat-svc.
    pub chat: BTreeSet<String>,
    /// Of sandbox-svc.
    pub sandbox: BTreeSet<String>,
    /// Of registry-svc.
    pub registry: BTreeSet<String>,
}

/// API tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Tokens remembered at most.
    pub remembered: u64,
}

/// How jobs are taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Jobs at once.
    pub concurrency: usize,
    /// How often to look for some.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long a lease lasts.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// How often open jobs are counted.
    #[serde(with = "humantime_serde")]
    pub gauges_period: Duration,
}

/// How failed steps are retried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryConfig {
    /// Longest first delay.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// Longest delay.
    #[serde(with = "humantime_serde")]
    pub most: Duration,
    /// Failures in a row after which a job is parked.
    pub patience: u32,
    /// How long it is left alone then.
    #[serde(with = "humantime_serde")]
    pub parked: Duration,
}

impl RetryConfig {
    /// As a policy.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        Policy { backoff: Backoff::new(self.first, self.most), patience: self.patience, parked: self.parked }
    }
}

/// Rows that no longer count.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// How often they are deleted.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Rows deleted in one statement.
    pub batch: u32,
}

impl Config {
    /// Loads the configuration: defaults ← `file` ← environment.
    ///
    /// # Errors
    /// [`svc_core::run::config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, svc_core::run::config::Error> {
        svc_core::run::config::load("purge", DEFAULTS, file)
    }
}

fn triggers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Trigger>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let known = || Trigger::ALL.map(Trigger::name).join(", ");
    let parse = |name: &String| {
        Trigger::from_name(name)
            .ok_or_else(|| D::Error::custom(format!("{name:?} is no trigger, expected some of {}", known())))
    };
    names.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads `text` with the keys that have no default.
    fn load(text: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{text}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_is_a_configuration_but_for_two_urls() {
        let config = load("").unwrap();
        assert_eq!(config.server.listen.port(), 7104);
        assert_eq!(config.retry.policy().patience, 10);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn nothing_is_erased_unless_it_is_switched_on() {
        assert_eq!(load("").unwrap().triggers, []);
        assert_eq!(load("triggers = ['user_erasure']").unwrap().triggers, [Trigger::UserErasure]);
        let error = load("triggers = ['users']").unwrap_err().to_string();
        assert!(error.contains("users") && error.contains("grace_expiry"), "{error}");
    }

    #[test]
    fn a_key_that_is_misspelt_is_refused() {
        let error = load("[worker]\nlease = '1s'\n").unwrap_err().to_string();
        assert!(error.contains("lease"), "{error}");
    }
}
