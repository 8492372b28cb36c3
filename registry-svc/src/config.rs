//! registry-svc's configuration. `config.default.toml` documents every key and its default.

use std::{num::NonZeroU32, time::Duration};

use serde::Deserialize;
use svc_core::{base, run::config::Unusable, wire::outbound::OutboundConfig};

use crate::domain::agent::AgentLimits;

pub type Config = base::Config<Settings>;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub tokens: TokensConfig,
    pub agents: AgentLimits,
    pub heartbeat: HeartbeatConfig,
    pub relay: RelayConfig,
    pub outbound: OutboundConfig,
    pub retention: RetentionConfig,
}

impl base::ServiceConfig for Settings {
    const NAME: &'static str = "registry-svc";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn check(&self) -> Result<(), Unusable> {
        Unusable::check([(!self.retention.period.is_zero(), "retention.period", "must not be zero")])
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    pub max_live_per_account: u32,
    pub remembered: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    #[serde(with = "humantime_serde")]
    pub shortest_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub longest_interval: Duration,
    pub wanted_per_second: u32,
    pub missed_beats: u32,
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    #[serde(with = "humantime_serde")]
    pub flush_period: Duration,
    #[serde(with = "humantime_serde")]
    pub replica_period: Duration,
    #[serde(with = "humantime_serde")]
    pub sweep_period: Duration,
    #[serde(with = "humantime_serde")]
    pub adopt_period: Duration,
    #[serde(with = "humantime_serde")]
    pub sweep_lease: Duration,
    #[serde(rename = "believed")]
    pub max_silent: u32,
    #[serde(rename = "believed_share")]
    pub max_silent_share: f64,
    #[serde(with = "humantime_serde")]
    pub recheck_period: Duration,
    #[serde(rename = "settling")]
    pub max_record_writes: usize,
    pub remembered: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    #[serde(with = "humantime_serde")]
    pub messages: Duration,
    pub batch: NonZeroU32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    pub max_request_bytes: usize,
    pub max_waiting: u32,
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub ask_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    #[serde(with = "humantime_serde")]
    pub settle_timeout: Duration,
    pub max_arrivals: i32,
    #[serde(with = "humantime_serde")]
    pub first_retry: Duration,
    #[serde(with = "humantime_serde")]
    pub longest_retry: Duration,
    pub max_dispatches: usize,
    pub max_dispatches_per_agent: u32,
    pub max_dispatches_per_account: u32,
    #[serde(with = "humantime_serde")]
    pub scan_period: Duration,
    #[serde(with = "humantime_serde")]
    pub expire_period: Duration,
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

#[cfg(test)]
mod tests {
    use svc_core::base::ServiceConfig;

    use super::*;

    /// Loads a file with the keys that have no default, and `more`.
    fn load(more: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{more}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_lacks_only_two_urls() {
        let config = load("").unwrap();
        assert_eq!(config.own.tokens.max_live_per_account, 200);
        assert_eq!(config.base.server.listen.port(), 7103);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn retention_without_period_or_batch_is_refused() {
        let error = load("retention.batch = 0").unwrap_err().to_string();
        assert!(error.contains("retention.batch"), "{error}");
        let error = load("retention.period = '0s'").unwrap().own.check().unwrap_err();
        assert!(error.to_string().contains("retention.period"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = load("[tokens]\nmax_live = 3\n").unwrap_err().to_string();
        assert!(error.contains("max_live"), "{error}");
    }
}
