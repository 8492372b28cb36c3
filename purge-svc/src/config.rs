//! purge-svc's own configuration keys. `config.default.toml` documents every key and its default.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use svc_core::{
    base::{self, RetentionConfig, ServiceConfig},
    run::backoff::Backoff,
    wire::{auth::TokensConfig, client::PeerConfig},
};

use crate::domain::{schedule::Policy, trigger::Trigger};

/// The whole configuration of purge-svc.
pub type Config = base::Config<Settings>;

/// The keys that only purge-svc has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Triggers of the jobs that are worked on.
    #[serde(deserialize_with = "triggers")]
    pub triggers: Vec<Trigger>,
    /// Addresses of the custodians.
    pub peers: PeersConfig,
    /// Kinds that each custodian must declare.
    pub required_kinds: KindsConfig,
    /// Cache of API tokens.
    pub tokens: TokensConfig,
    /// Limits of the claiming of jobs.
    pub worker: WorkerConfig,
    /// Retries of failed steps.
    pub retry: RetryConfig,
    /// Deletion of expired rows.
    pub retention: RetentionConfig,
}

impl ServiceConfig for Settings {
    const NAME: &'static str = "purge-svc";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");
}

/// Addresses of the custodians.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersConfig {
    pub chat: PeerConfig,
    pub sandbox: PeerConfig,
    pub registry: PeerConfig,
}

/// Kinds of data that each custodian must declare before a job begins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindsConfig {
    pub chat: BTreeSet<String>,
    pub sandbox: BTreeSet<String>,
    pub registry: BTreeSet<String>,
}

/// Limits of the claiming of jobs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Maximum jobs at once in one process.
    pub concurrency: usize,
    /// Maximum time between two claims of due jobs, if no wake-up comes.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// Length of a job's lease.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// Time between two counts of open jobs.
    #[serde(with = "humantime_serde")]
    pub gauges_period: Duration,
}

/// Retries of failed steps.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryConfig {
    /// Maximum delay before the second attempt.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// Maximum delay between attempts.
    #[serde(with = "humantime_serde")]
    pub most: Duration,
    /// Failures in a row after which a job is parked.
    #[serde(rename = "patience")]
    pub max_failures: u32,
    /// Delay between attempts of a parked job.
    #[serde(with = "humantime_serde")]
    pub parked: Duration,
}

impl RetryConfig {
    pub const fn policy(&self) -> Policy {
        Policy {
            backoff: Backoff::new(self.first, self.most),
            max_failures: self.max_failures,
            parked: self.parked,
        }
    }
}

fn triggers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Trigger>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let known = || Trigger::ALL.map(Trigger::name).join(", ");
    let parse = |name: &String| {
        Trigger::from_name(name).ok_or_else(|| {
            D::Error::custom(format!("{name:?} is not a trigger, expected some of {}", known()))
        })
    };
    names.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads `text` beside the two keys that have no default.
    fn load(text: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{text}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn only_two_urls_have_no_default() {
        let config = load("").unwrap();
        assert_eq!(config.base.server.listen.port(), 7104);
        assert_eq!(config.own.retry.policy().max_failures, 10);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn every_trigger_is_off_by_default() {
        assert_eq!(load("").unwrap().own.triggers, []);
        assert_eq!(load("triggers = ['user_erasure']").unwrap().own.triggers, [Trigger::UserErasure]);
        let error = load("triggers = ['users']").unwrap_err().to_string();
        assert!(error.contains("users") && error.contains("grace_expiry"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = load("[worker]\nlease = '1s'\n").unwrap_err().to_string();
        assert!(error.contains("lease"), "{error}");
    }
}
