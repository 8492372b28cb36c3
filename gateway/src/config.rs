//! The gateway's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use http::HeaderValue;
use serde::Deserialize;
use svc_core::{
    data::redis::RedisConfig,
    run::{process::ProcessConfig, telemetry::TelemetryConfig},
    wire::{assertion::IdentityConfig, auth::TOKEN_TTL, client::PeerConfig},
};

/// Every key and its default.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Configuration of the gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Public HTTP address.
    pub listen: SocketAddr,
    /// Operators' HTTP address.
    pub operator_listen: SocketAddr,
    /// How the process runs.
    pub process: ProcessConfig,
    /// What it shows of itself.
    pub telemetry: TelemetryConfig,
    /// Who it is to the services.
    pub identity: IdentityConfig,
    /// The services, by name ("chat").
    pub peers: BTreeMap<String, PeerConfig>,
    /// Limits of connections.
    pub connections: ConnectionsConfig,
    /// Limits of requests.
    pub requests: RequestsConfig,
    /// Limits of streams.
    pub streams: StreamsConfig,
    /// What is remembered of API tokens.
    pub tokens: TokensConfig,
    /// How often a principal may ask.
    pub rate_limit: RateLimitConfig,
    /// Where that is counted for every replica together.
    pub redis: RedisConfig,
    /// Which browser applications may call.
    pub cors: CorsConfig,
}

/// Limits of connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsConfig {
    /// Open at once.
    pub max: usize,
    /// Longest time to send a request's head.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Longest head.
    pub max_header_bytes: usize,
    /// Most headers.
    pub max_headers: usize,
    /// Longest time without an acknowledgement.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    /// Time between "not ready" and closing the door.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
}

/// Limits of requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestsConfig {
    /// Longest body.
    pub max_body_bytes: usize,
    /// Longest time to send a body.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Longest answer of a service.
    pub max_answer_bytes: usize,
    /// In hand at once.
    pub max_in_flight: usize,
    /// In hand at once for one account.
    pub max_per_account: usize,
    /// Longest time for an answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Methods with a longest time of their own, by full name.
    pub timeouts: HashMap<String, Timeout>,
}

/// A duration within a map.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub struct Timeout(#[serde(with = "humantime_serde")] pub Duration);

/// Limits of streams.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamsConfig {
    /// Open at once.
    pub max: usize,
    /// Open at once for one principal.
    pub max_per_principal: usize,
    /// Longest silence.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Longest wait for the first event before the answer begins.
    #[serde(with = "humantime_serde")]
    pub first_event: Duration,
    /// How often the token is asked about again.
    #[serde(with = "humantime_serde")]
    pub recheck: Duration,
}

/// What is remembered of API tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Tokens at most.
    pub remembered: u64,
}

/// How often a principal may ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Requests a second over time.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// Which browser applications may call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Where they come from.
    pub origins: Vec<Origin>,
}

/// An origin, as a browser writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(pub HeaderValue);

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        match (
            host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain)),
            HeaderValue::try_from(&text),
        ) {
            (true, Ok(value)) => Ok(Self(value)),
            _ => Err(format!("{text:?} is no origin, as \"https://console.example\"")),
        }
    }
}

/// A value that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("configuration of gateway: {key} {problem}")]
pub struct Unusable {
    /// The key.
    pub key: &'static str,
    /// What is wrong, to be read after the key.
    pub problem: &'static str,
}

impl Config {
    /// Defaults ← `file` ← environment, checked.
    ///
    /// # Errors
    /// [`crate::Error`] names the key.
    pub fn load(file: Option<&Path>) -> Result<Self, crate::Error> {
        let config: Self = svc_core::run::config::load("gateway", DEFAULTS, file)?;
        config.check()?;
        Ok(config)
    }

    /// What types do not say.
    ///
    /// # Errors
    /// [`Unusable`] names the key.
    pub fn check(&self) -> Result<(), Unusable> {
        let positive = |key, number: usize| match number {
            0 => Err(Unusable { key, problem: "must be at least 1" }),
            _ => Ok(()),
        };
        positive("connections.max", self.connections.max)?;
        positive("requests.max_in_flight", self.requests.max_in_flight)?;
        positive("requests.max_per_account", self.requests.max_per_account)?;
        positive("streams.max", self.streams.max)?;
        positive("streams.max_per_principal", self.streams.max_per_principal)?;
        positive("rate_limit.per_second", self.rate_limit.per_second as usize)?;
        positive("rate_limit.burst", self.rate_limit.burst as usize)?;
        if self.connections.max_header_bytes < 8192 {
            // The HTTP library's own floor.
            return Err(Unusable { key: "connections.max_header_bytes", problem: "must be at least 8192" });
        }
        if self.streams.recheck.is_zero() || self.streams.recheck * 2 > TOKEN_TTL {
            return Err(Unusable { key: "streams.recheck", problem: "must be above 0 and at most 2.5s" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_a_whole_and_usable_configuration() {
        let config = Config::load(None).unwrap();
        assert_eq!(config.peers.len(), 4);
        assert_eq!(config.requests.max_body_bytes, 2 * 1024 * 1024);
    }

    #[test]
    fn an_origin_is_one_and_nothing_more() {
        let origin = |text: &str| Origin::try_from(text.to_owned());
        for good in ["https://console.example", "http://localhost:3000", "http://[::1]:3000"] {
            assert_eq!(origin(good).unwrap().0, good);
        }
        for bad in
            ["*", "", "https://", "console.example", "https://a/", "https://a/b", "https://a b", "null"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_must_not_outlive_its_token_by_more_than_is_promised() {
        let mut config = Config::load(None).unwrap();
        config.streams.recheck = Duration::from_secs(3);
        assert_eq!(config.check().unwrap_err().key, "streams.recheck");
    }
}
