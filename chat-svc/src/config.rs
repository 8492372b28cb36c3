//! chat-svc's configuration. `config.default.toml` documents every key and its default.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use svc_core::{
    base::{self, RetentionConfig, ServiceConfig},
    run::{breaker::BreakerPolicy, config::Unusable},
    wire::{auth::TokensConfig, client::PeerConfig},
};

use crate::domain::{
    session::DEFAULT_ROUTE,
    settings::{JournalConfig, OpenAiConfig, SandboxConfig, TurnsConfig},
};

pub type Config = base::Config<Settings>;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub tokens: TokensConfig,
    pub peers: Peers,
    pub turns: TurnsConfig,
    pub worker: WorkerConfig,
    pub journal: JournalConfig,
    pub native: NativeSection,
    pub breaker: BreakerPolicy,
    pub sandbox: SandboxConfig,
    pub capture_content: bool,
    pub models: BTreeMap<String, ModelSection>,
    /// Named lists of models.
    pub routes: BTreeMap<String, Vec<String>>,
    pub retention: RetentionConfig,
}

/// The services that chat-svc calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    pub sandbox: PeerConfig,
    pub registry: PeerConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    pub max_running: usize,
    pub max_running_per_account: u32,
    pub claim_batch: usize,
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub renew_period: Duration,
    #[serde(with = "humantime_serde")]
    pub scan_period: Duration,
    pub max_barren_claims: i32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeSection {
    pub system: String,
    pub max_steps: i32,
    pub retries: u32,
    #[serde(with = "humantime_serde")]
    pub first_delay: Duration,
    #[serde(with = "humantime_serde")]
    pub longest_delay: Duration,
    #[serde(with = "humantime_serde")]
    pub longest_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub bytes_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub liveness_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub progress_timeout: Duration,
}

/// One model. `prefill` says whether it can continue an answer that another model began; if it is not set,
/// the capability table decides.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "api", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelSection {
    /// Answers offline, without a key; `pace` is the time before every word.
    Demo {
        #[serde(default, with = "humantime_serde")]
        pace: Duration,
        #[serde(default)]
        prefill: Option<bool>,
    },
    OpenAi {
        /// The model's id at its provider.
        model: String,
        endpoint: Box<OpenAiConfig>,
        /// Maximum tokens of one step.
        #[serde(default)]
        max_output_tokens: Option<u32>,
        #[serde(default)]
        prefill: Option<bool>,
    },
}

impl ServiceConfig for Settings {
    const NAME: &'static str = "chat-svc";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn check(&self) -> Result<(), Unusable> {
        if !self.routes.contains_key(DEFAULT_ROUTE) {
            return Err(Unusable::new("routes.default", "is required"));
        }
        for (route, models) in &self.routes {
            if models.is_empty() {
                return Err(Unusable::new(format!("routes.{route}"), "must list at least one model"));
            }
            if let Some(model) = models.iter().find(|model| !self.models.contains_key(*model)) {
                let known = self.models.keys().cloned().collect::<Vec<_>>().join(", ");
                let problem =
                    format!("names the model {model:?}, which [models] does not have; it has {known}");
                return Err(Unusable::new(format!("routes.{route}"), problem));
            }
        }
        let (worker, journal) = (&self.worker, &self.journal);
        let nonzero = "must not be zero";
        Unusable::check([
            (
                worker.renew_period <= worker.lease_ttl / 2,
                "worker.renew_period",
                "must be at most half of worker.lease_ttl",
            ),
            (!worker.scan_period.is_zero(), "worker.scan_period", nonzero),
            (!worker.renew_period.is_zero(), "worker.renew_period", nonzero),
            (worker.claim_batch > 0, "worker.claim_batch", nonzero),
            (worker.max_running_per_account > 0, "worker.max_running_per_account", nonzero),
            (journal.max_batch_events > 0, "journal.max_batch_events", nonzero),
            (journal.max_queued_bytes > 0, "journal.max_queued_bytes", nonzero),
            (journal.page_events > 0, "journal.page_events", nonzero),
            (journal.hub_batches > 0, "journal.hub_batches", nonzero),
            (!journal.poll.is_zero(), "journal.poll", nonzero),
            (self.turns.max_open > 0, "turns.max_open", nonzero),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a file with the keys that have no default, followed by `more`.
    fn load(more: &str) -> Result<Config, svc_core::run::config::Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("pg.url = 'postgres://x@localhost/x'\nredis.url = 'redis://localhost'\n{more}");
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_default_file_lacks_only_two_urls() {
        let config = load("").unwrap();
        config.own.check().unwrap();
        assert_eq!(config.own.worker.lease_ttl, Duration::from_secs(9));
        assert_eq!(config.base.server.listen.port(), 7101);
        assert!(Config::load(None).unwrap_err().to_string().contains("url"));
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused() {
        for (more, problem) in [
            ("[routes]\ndefault = ['gpt']", "gpt"),
            ("[routes]\ndefault = []", "at least one"),
            ("[worker]\nrenew_period = '8s'", "renew_period"),
            ("[journal]\nmax_batch_events = 0", "max_batch_events"),
        ] {
            let error = load(more).unwrap().own.check().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_model_with_an_unknown_api_is_refused() {
        let error = load("[models.x]\napi = 'telepathy'").unwrap_err().to_string();
        assert!(error.contains("telepathy") && error.contains("demo"), "{error}");
    }
}
