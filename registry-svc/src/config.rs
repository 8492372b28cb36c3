//! registry-svc's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use svc_core::{
    assertion::IdentityConfig, outbound::OutboundConfig, pg::PgConfig, process::ProcessConfig,
    redis::RedisConfig, server::ServerConfig, telemetry::TelemetryConfig,
};

/// Every key and its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Configuration of registry-svc.
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
    /// API tokens.
    pub tokens: TokensConfig,
    /// Agents.
    pub agents: AgentsConfig,
    /// Calls to URLs that agents give.
    pub outbound: OutboundConfig,
    /// Rows that no longer count.
    pub retention: RetentionConfig,
}

/// API tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Live tokens that one account may have.
    pub max_live_per_account: u32,
    /// Tokens remembered at most.
    pub remembered: u64,
}

/// Agents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentsConfig {
    /// Agents that one account may have.
    pub max_per_account: u32,
    /// How long an enrolment works.
    #[serde(with = "humantime_serde")]
    pub enrolment_ttl: Duration,
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
    /// [`svc_core::config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, svc_core::config::Error> {
        svc_core::config::load("registry", DEFAULTS, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the keys that have no default, and `more`.
    fn load(more: &str) -> Result<Config, svc_core::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{more}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_is_a_configuration_but_for_two_urls() {
        let config = load("").unwrap();
        assert_eq!(config.tokens.max_live_per_account, 200);
        assert_eq!(config.server.listen.port(), 7103);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn a_key_that_is_misspelt_is_refused() {
        let error = load("[tokens]\nmax_live = 3\n").unwrap_err().to_string();
        assert!(error.contains("max_live"), "{error}");
    }
}
