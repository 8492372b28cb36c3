//! The gateway's configuration. `config.default.toml` documents every key and its default.

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
    run::{
        config::{self, Unusable},
        process::{Configured, ProcessConfig},
        telemetry::TelemetryConfig,
    },
    wire::{assertion::IdentityConfig, auth::TOKEN_TTL, client::PeerConfig},
};

pub const NAME: &str = svc_core::wire::assertion::GATEWAY;

/// Every key with its default value.
const DEFAULTS: &str = include_str!("../config.default.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    pub operator_listen: SocketAddr,
    pub process: ProcessConfig,
    pub telemetry: TelemetryConfig,
    pub identity: IdentityConfig,
    /// Addresses of the services by short name, such as "chat".
    pub peers: BTreeMap<String, PeerConfig>,
    pub connections: ConnectionsConfig,
    pub requests: RequestsConfig,
    pub streams: StreamsConfig,
    pub tokens: TokensConfig,
    pub rate_limit: RateLimitConfig,
    pub redis: RedisConfig,
    pub cors: CorsConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsConfig {
    pub max: usize,
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestsConfig {
    pub max_body_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    pub max_answer_bytes: usize,
    pub max_in_flight: usize,
    pub max_per_account: usize,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Timeouts of calls by full name of the method.
    pub timeouts: HashMap<String, Timeout>,
}

/// A duration as a value of a map.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub struct Timeout(#[serde(with = "humantime_serde")] pub Duration);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamsConfig {
    pub max: usize,
    pub max_per_principal: usize,
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    #[serde(with = "humantime_serde")]
    pub first_event: Duration,
    #[serde(with = "humantime_serde")]
    pub recheck: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    pub remembered: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    pub per_second: u32,
    pub burst: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    pub origins: Vec<Origin>,
}

/// An origin in the form in which browsers send it.
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
            _ => Err(format!("{text:?} is not an origin such as \"https://console.example\"")),
        }
    }
}

impl Config {
    /// Checks what the types of the fields cannot express.
    pub(crate) fn check(&self) -> Result<(), Unusable> {
        let (recheck, positive) = (self.streams.recheck, "must be at least 1");
        Unusable::check([
            (self.connections.max > 0, "connections.max", positive),
            // The HTTP library accepts no smaller value.
            (
                self.connections.max_header_bytes >= 8192,
                "connections.max_header_bytes",
                "must be at least 8192",
            ),
            (self.requests.max_in_flight > 0, "requests.max_in_flight", positive),
            (self.requests.max_per_account > 0, "requests.max_per_account", positive),
            (self.streams.max > 0, "streams.max", positive),
            (self.streams.max_per_principal > 0, "streams.max_per_principal", positive),
            (self.rate_limit.per_second > 0, "rate_limit.per_second", positive),
            (self.rate_limit.burst > 0, "rate_limit.burst", positive),
            (
                !recheck.is_zero() && recheck * 2 <= TOKEN_TTL,
                "streams.recheck",
                "must be above 0 and at most 2.5s",
            ),
        ])
    }
}

impl Configured for Config {
    const NAME: &'static str = NAME;
    type Error = config::Error;

    fn load(file: Option<&Path>) -> Result<Self, config::Error> {
        let config: Self = config::load(NAME, DEFAULTS, file)?;
        config.check().map_err(|Unusable { key, problem }| config::Error::Refused {
            service: NAME,
            problem: format!("{key} {problem}"),
        })?;
        Ok(config)
    }

    fn process(&self) -> (ProcessConfig, TelemetryConfig) {
        (self.process.clone(), self.telemetry.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_a_complete_configuration() {
        let config = Config::load(None).unwrap();
        assert_eq!(config.peers.len(), 4);
        assert_eq!(config.requests.max_body_bytes, 2 * 1024 * 1024);
    }

    #[test]
    fn an_origin_has_no_path_and_no_wildcard() {
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
    fn a_check_period_over_half_the_token_ttl_is_refused() {
        let mut config = Config::load(None).unwrap();
        config.streams.recheck = Duration::from_secs(3);
        assert_eq!(config.check().unwrap_err().key, "streams.recheck");
    }
}
