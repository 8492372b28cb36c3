//! registry-svc's configuration. Every key, its default and its meaning: `config.default.toml`.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use svc_core::{
    data::{pg::PgConfig, redis::RedisConfig},
    run::{backoff::Backoff, process::ProcessConfig, telemetry::TelemetryConfig},
    wire::{assertion::IdentityConfig, outbound::OutboundConfig, server::ServerConfig},
};

use crate::{
    app::relay::{RelayLimits, deliver::DeliveryLimits},
    domain::{beat::Rhythm, delivery::Patience},
    store::beats::SweepLimits,
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
    /// Beats of agents.
    pub heartbeat: HeartbeatConfig,
    /// Messages to agents.
    pub relay: RelayConfig,
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

/// Beats of agents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// Shortest time between two beats of an agent.
    #[serde(with = "humantime_serde")]
    pub shortest_interval: Duration,
    /// Longest time between two beats of an agent.
    #[serde(with = "humantime_serde")]
    pub longest_interval: Duration,
    /// Beats a second that the installation wants; with more agents each beats less often.
    pub wanted_per_second: u32,
    /// Beats that an agent may miss.
    pub missed_beats: u32,
    /// Time on top of that before it counts as silent.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How often what beats said is written down.
    #[serde(with = "humantime_serde")]
    pub flush_period: Duration,
    /// How often a replica says that it hears agents.
    #[serde(with = "humantime_serde")]
    pub replica_period: Duration,
    /// How often silent agents are looked for.
    #[serde(with = "humantime_serde")]
    pub sweep_period: Duration,
    /// How often living agents are looked for that Redis does not know.
    #[serde(with = "humantime_serde")]
    pub adopt_period: Duration,
    /// Lease of the one that looks.
    #[serde(with = "humantime_serde")]
    pub sweep_lease: Duration,
    /// So many silent agents are believed at once…
    pub believed: u32,
    /// …or such a share of all.
    pub believed_share: f64,
    /// How often the credential behind a stream of beats is asked about again.
    #[serde(with = "humantime_serde")]
    pub recheck_period: Duration,
    /// Beats that go through agents' records at once.
    pub settling: usize,
    /// Agents remembered in a process.
    pub remembered: u64,
}

impl HeartbeatConfig {
    /// How often agents beat.
    #[must_use]
    pub fn rhythm(&self) -> Rhythm {
        Rhythm {
            shortest: self.shortest_interval,
            longest: self.longest_interval,
            wanted_per_second: self.wanted_per_second,
            missed: self.missed_beats,
            grace: self.grace,
        }
    }

    /// When silence is believed.
    #[must_use]
    pub fn sweep_limits(&self) -> SweepLimits {
        SweepLimits {
            period: self.sweep_period,
            amnesty: self.rhythm().amnesty(),
            believed: self.believed,
            believed_share: self.believed_share,
        }
    }
}

/// Rows that no longer count.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// How often they are deleted.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// How long messages are kept after their end.
    #[serde(with = "humantime_serde")]
    pub messages: Duration,
    /// Rows deleted in one statement.
    pub batch: u32,
}

/// Messages to agents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Longest request, bytes.
    pub max_request_bytes: usize,
    /// Messages that may wait for one agent.
    pub max_waiting: u32,
    /// How long a sender waits for its agent's answer.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// How long a message is kept for an agent that is away.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Longest time for an agent to answer a message.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest time for an agent to answer a question about a task.
    #[serde(with = "humantime_serde")]
    pub ask_timeout: Duration,
    /// Lease of a lane.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Longest time for writing an outcome down while Postgres is away.
    #[serde(with = "humantime_serde")]
    pub settle_timeout: Duration,
    /// How often a message is sent that can have arrived.
    pub max_arrivals: i32,
    /// Time after the first attempt; doubles.
    #[serde(with = "humantime_serde")]
    pub first_retry: Duration,
    /// Longest time between attempts.
    #[serde(with = "humantime_serde")]
    pub longest_retry: Duration,
    /// Messages that one process has on their way at once.
    pub max_dispatches: usize,
    /// Messages that one agent has on their way at once.
    pub max_dispatches_per_agent: u32,
    /// Messages that one account's agents have on their way at once.
    pub max_dispatches_per_account: u32,
    /// How often lanes are looked for that are ready.
    #[serde(with = "humantime_serde")]
    pub scan_period: Duration,
    /// How often messages are looked for whose time is over.
    #[serde(with = "humantime_serde")]
    pub expire_period: Duration,
    /// Time that what is on its way gets at a stop.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl RelayConfig {
    /// Limits of accepting.
    #[must_use]
    pub fn limits(&self) -> RelayLimits {
        RelayLimits {
            max_request: self.max_request_bytes,
            max_waiting: self.max_waiting,
            wait: self.wait,
            ttl: self.ttl,
        }
    }

    /// Limits of delivering.
    #[must_use]
    pub fn delivery(&self) -> DeliveryLimits {
        DeliveryLimits {
            lease: self.lease,
            timeout: self.timeout,
            ask_timeout: self.ask_timeout,
            settle_timeout: self.settle_timeout,
            patience: Patience {
                arrivals: self.max_arrivals,
                backoff: Backoff::new(self.first_retry, self.longest_retry),
            },
        }
    }
}

impl Config {
    /// Loads the configuration: defaults ← `file` ← environment.
    ///
    /// # Errors
    /// [`svc_core::run::config::Error`] names the key that was refused.
    pub fn load(file: Option<&Path>) -> Result<Self, svc_core::run::config::Error> {
        svc_core::run::config::load("registry", DEFAULTS, file)
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
