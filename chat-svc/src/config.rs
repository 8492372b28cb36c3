//! chat-svc's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Deserialize;
use svc_core::{
    data::{pg::PgConfig, redis::RedisConfig},
    run::{backoff::Backoff, breaker::BreakerPolicy, process::ProcessConfig, telemetry::TelemetryConfig},
    wire::{assertion::IdentityConfig, client::PeerConfig, server::ServerConfig},
};

use crate::{
    backend::native::NativeConfig,
    client::sandbox::SandboxConfig,
    domain::{failover::RetryPolicy, session::DEFAULT_ROUTE, step::ClockLimits},
    journal::JournalConfig,
    model::openai::OpenAiConfig,
    worker::{claimer::WorkerConfig, retention::RetentionConfig},
};

/// Every key and its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Configuration of chat-svc.
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
    /// The services it calls.
    pub peers: Peers,
    /// API tokens.
    pub tokens: TokensConfig,
    /// Limits of turns.
    pub turns: TurnsConfig,
    /// How turns are taken and kept.
    pub worker: WorkerConfig,
    /// Limits of the journal.
    pub journal: JournalConfig,
    /// Limits of the native loop.
    pub native: NativeSection,
    /// When an upstream is left alone.
    pub breaker: BreakerPolicy,
    /// How patiently sandbox-svc is called.
    pub sandbox: SandboxConfig,
    /// Whether prompts and answers are recorded in traces.
    pub capture_content: bool,
    /// Models by name.
    pub models: BTreeMap<String, ModelSection>,
    /// Named lists of models.
    pub routes: BTreeMap<String, Vec<String>>,
    /// Rows that no longer count.
    pub retention: RetentionConfig,
}

/// The services that chat-svc calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    /// sandbox-svc.
    pub sandbox: PeerConfig,
    /// registry-svc.
    pub registry: PeerConfig,
}

/// API tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Tokens remembered at most.
    pub remembered: u64,
}

/// Limits of turns.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnsConfig {
    /// Time from acceptance to the deadline.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Turns of one session that are not final, at most.
    pub max_open: usize,
}

/// Limits of the native loop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeSection {
    /// Instructions above every conversation.
    pub system: String,
    /// Steps of one turn.
    pub max_steps: i32,
    /// Repeats on one model.
    pub retries: u32,
    /// First delay between them.
    #[serde(with = "humantime_serde")]
    pub first_delay: Duration,
    /// Longest delay between them.
    #[serde(with = "humantime_serde")]
    pub longest_delay: Duration,
    /// Longest pause that an upstream may ask for.
    #[serde(with = "humantime_serde")]
    pub longest_wait: Duration,
    /// Longest time without a byte.
    #[serde(with = "humantime_serde")]
    pub bytes_timeout: Duration,
    /// Longest time without an event.
    #[serde(with = "humantime_serde")]
    pub liveness_timeout: Duration,
    /// Longest time without progress.
    #[serde(with = "humantime_serde")]
    pub progress_timeout: Duration,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "api", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelSection {
    /// Answers offline, without a key.
    Demo {
        /// Time before every word.
        #[serde(default, with = "humantime_serde")]
        pace: Duration,
        /// Whether it goes on from an answer that another model began; what the capability table says if not set.
        #[serde(default)]
        prefill: Option<bool>,
    },
    /// Speaks Chat Completions.
    OpenAi {
        /// The model's id at its provider.
        model: String,
        /// Where it is, and its key.
        endpoint: Box<OpenAiConfig>,
        /// Most tokens that it may write in one step.
        #[serde(default)]
        max_output_tokens: Option<u32>,
        /// As for `demo`.
        #[serde(default)]
        prefill: Option<bool>,
    },
}

/// A configuration whose parts do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A route names a model that is not there.
    #[error("routes.{route} names the model {model:?}, which [models] does not have; it has {known}")]
    UnknownModel {
        /// The route.
        route: String,
        /// The model.
        model: String,
        /// What there is.
        known: String,
    },
    /// A route lists no model.
    #[error("routes.{0} must list at least one model")]
    EmptyRoute(String),
    /// Sessions that name no route would have none.
    #[error("routes.default is required")]
    NoDefaultRoute,
    /// A lease would run out before it is renewed.
    #[error("worker.renew_period must be at most half of worker.lease_ttl")]
    RenewTooLate,
    /// A period or a limit is zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
}

impl Config {
    /// Loads the configuration: defaults ← `file` ← environment.
    ///
    /// # Errors
    /// [`svc_core::run::config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, svc_core::run::config::Error> {
        svc_core::run::config::load("chat", DEFAULTS, file)
    }

    /// Checks what no single key can say.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.routes.contains_key(DEFAULT_ROUTE) {
            return Err(ConfigError::NoDefaultRoute);
        }
        for (route, models) in &self.routes {
            if models.is_empty() {
                return Err(ConfigError::EmptyRoute(route.clone()));
            }
            if let Some(model) = models.iter().find(|model| !self.models.contains_key(*model)) {
                let known = self.models.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(ConfigError::UnknownModel { route: route.clone(), model: model.clone(), known });
            }
        }
        if self.worker.renew_period > self.worker.lease_ttl / 2 {
            return Err(ConfigError::RenewTooLate);
        }
        let zeros = [
            ("worker.scan_period", self.worker.scan_period.is_zero()),
            ("worker.renew_period", self.worker.renew_period.is_zero()),
            ("worker.claim_batch", self.worker.claim_batch == 0),
            ("worker.max_running_per_account", self.worker.max_running_per_account == 0),
            ("journal.max_batch_events", self.journal.max_batch_events == 0),
            ("journal.max_queued_bytes", self.journal.max_queued_bytes == 0),
            ("journal.page_events", self.journal.page_events <= 0),
            ("journal.hub_batches", self.journal.hub_batches == 0),
            ("journal.poll", self.journal.poll.is_zero()),
            ("turns.max_open", self.turns.max_open == 0),
        ];
        match zeros.into_iter().find(|(_, zero)| *zero) {
            Some((key, _)) => Err(ConfigError::Zero(key)),
            None => Ok(()),
        }
    }

    /// Limits of the native loop.
    #[must_use]
    pub fn native(&self) -> NativeConfig {
        let section = &self.native;
        NativeConfig {
            system: Some(section.system.clone()).filter(|system| !system.is_empty()),
            max_steps: section.max_steps,
            retry: RetryPolicy {
                retries: section.retries,
                backoff: Backoff::new(section.first_delay, section.longest_delay),
                longest_wait: section.longest_wait,
            },
            clocks: ClockLimits {
                bytes: section.bytes_timeout,
                liveness: section.liveness_timeout,
                progress: section.progress_timeout,
            },
            breaker: self.breaker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the keys that have no default, and `more`.
    fn load(more: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{more}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_is_a_configuration_but_for_two_urls() {
        let config = load("").unwrap();
        config.check().unwrap();
        assert_eq!(config.worker.lease_ttl, Duration::from_secs(9));
        assert_eq!(config.server.listen.port(), 7101);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (more, problem) in [
            ("[routes]\ndefault = ['gpt']", "gpt"),
            ("[routes]\ndefault = []", "at least one"),
            ("[worker]\nrenew_period = '8s'", "renew_period"),
            ("[journal]\nmax_batch_events = 0", "max_batch_events"),
        ] {
            let error = load(more).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_model_of_an_api_that_nobody_speaks_is_refused() {
        let error = load("[models.x]\napi = 'telepathy'").unwrap_err().to_string();
        assert!(error.contains("telepathy") && error.contains("demo"), "{error}");
    }
}
