//! Sections of the configuration that are passed unchanged to the turns, the journal, the sandbox client and
//! the model clients.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnsConfig {
    /// Time from acceptance to the deadline.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Maximum turns of a session that are not final.
    pub max_open: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalConfig {
    pub max_batch_events: usize,
    pub max_queued_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub retry_pause: Duration,
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    pub page_events: i64,
    pub hub_batches: usize,
    #[serde(with = "humantime_serde")]
    pub slow_reader: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxConfig {
    #[serde(with = "humantime_serde")]
    pub ready_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub call_margin: Duration,
    #[serde(with = "humantime_serde")]
    pub resolve_wait: Duration,
    #[serde(rename = "resolve_patience", with = "humantime_serde")]
    pub resolve_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub resolve_pause: Duration,
}

/// An endpoint that speaks Chat Completions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiConfig {
    /// Base URL with the version, for example `https://api.openai.com/v1`.
    pub base_url: Url,
    /// API key; some local servers need none.
    #[serde(default)]
    pub api_key: Option<SecretString>,
    /// The provider's name in telemetry.
    #[serde(default = "default_provider")]
    pub provider: String,
    /// Proxy for the calls. The environment's proxy is not used: only this key decides where prompts are
    /// sent.
    #[serde(default)]
    pub proxy: Option<Url>,
    #[serde(default)]
    pub timeouts: Timeouts,
}

fn default_provider() -> String {
    "openai".to_owned()
}

/// Time limits of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// Maximum time from the request to the head of the answer.
    #[serde(with = "humantime_serde")]
    pub first_byte: Duration,
    /// Maximum time between two bytes of the answer.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), first_byte: seconds(60), idle: seconds(120) }
    }
}
