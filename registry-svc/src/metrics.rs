//! registry-svc's metrics: every name, unit and meaning.

use std::time::Duration;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram, Meter},
};

use crate::{app::heartbeat::Stamp, domain::delivery::Verdict};

fn meter() -> Meter {
    global::meter("steward")
}

/// Beats taken.
#[derive(Debug, Clone)]
pub struct Beats(Counter<u64>);

impl Beats {
    /// The instrument, every label value at zero.
    #[must_use]
    pub fn new() -> Self {
        let counter = meter()
            .u64_counter("registry.beats")
            .with_unit("{beat}")
            .with_description(
                "beats of agents, by whether Redis counted them and whether a record was looked at",
            )
            .build();
        for redis in ["counted", "away"] {
            for record in ["untouched", "settled"] {
                counter.add(0, &labels(redis, record));
            }
        }
        Self(counter)
    }

    /// Counts one beat.
    pub fn count(&self, stamp: &Stamp, untouched: bool) {
        let redis = match stamp {
            Stamp::Counted { .. } => "counted",
            Stamp::Away => "away",
        };
        self.0.add(1, &labels(redis, if untouched { "untouched" } else { "settled" }));
    }
}

impl Default for Beats {
    fn default() -> Self {
        Self::new()
    }
}

fn labels(redis: &'static str, record: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("redis", redis), KeyValue::new("record", record)]
}

/// What sweeps for silent agents found.
#[derive(Debug, Clone)]
pub struct Sweeps {
    silent: Counter<u64>,
    braked: Counter<u64>,
}

impl Sweeps {
    /// The instruments, at zero.
    #[must_use]
    pub fn new() -> Self {
        let silent = meter()
            .u64_counter("registry.agents.silent")
            .with_unit("{agent}")
            .with_description("agents marked as offline because they were not heard of")
            .build();
        let braked = meter()
            .u64_counter("registry.sweeps.braked")
            .with_unit("{sweep}")
            .with_description("sweeps that believed nobody because too many agents were silent at once")
            .build();
        silent.add(0, &[]);
        braked.add(0, &[]);
        Self { silent, braked }
    }

    /// Counts agents that were marked.
    pub fn marked(&self, agents: usize) {
        self.silent.add(u64::try_from(agents).unwrap_or(u64::MAX), &[]);
    }

    /// Counts a sweep that was braked.
    pub fn braked(&self) {
        self.braked.add(1, &[]);
    }
}

impl Default for Sweeps {
    fn default() -> Self {
        Self::new()
    }
}

/// Attempts to deliver a message.
#[derive(Debug, Clone)]
pub struct Deliveries(Histogram<f64>);

impl Deliveries {
    /// The instrument.
    #[must_use]
    pub fn new() -> Self {
        let histogram = meter()
            .f64_histogram("registry.relay.attempt.duration")
            .with_unit("s")
            .with_description("time that an agent took to answer a message, or not to, by what followed")
            .build();
        Self(histogram)
    }

    /// Counts one attempt.
    pub fn attempted(&self, verdict: &Verdict, took: Duration) {
        let (verdict, problem) = match verdict {
            Verdict::Delivered(_) => ("delivered", ""),
            Verdict::Again { problem, .. } => ("again", problem.code()),
            Verdict::GivenUp(problem) => ("given_up", problem.code()),
        };
        let labels = [KeyValue::new("verdict", verdict), KeyValue::new("problem", problem)];
        self.0.record(took.as_secs_f64(), &labels);
    }
}

impl Default for Deliveries {
    fn default() -> Self {
        Self::new()
    }
}
