//! registry-svc's metrics: every name, unit and description.

use std::time::Duration;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram, Meter},
};

use crate::domain::delivery::Verdict;

fn meter() -> Meter {
    global::meter("steward")
}

#[derive(Debug, Clone)]
pub(crate) struct Beats(Counter<u64>);

impl Default for Beats {
    /// Makes the counter, with every combination of labels at zero.
    fn default() -> Self {
        let counter = meter()
            .u64_counter("registry.beats")
            .with_unit("{beat}")
            .with_description(
                "beats of agents, by whether Redis counted them and whether they reached a record",
            )
            .build();
        for counted in [true, false] {
            for through_record in [true, false] {
                counter.add(0, &labels(counted, through_record));
            }
        }
        Self(counter)
    }
}

impl Beats {
    /// Counts one beat, by whether Redis renewed the agent's deadline (`counted`) and whether the beat needed
    /// the agent's record in Postgres (`through_record`).
    pub(crate) fn count(&self, counted: bool, through_record: bool) {
        self.0.add(1, &labels(counted, through_record));
    }
}

fn labels(counted: bool, through_record: bool) -> [KeyValue; 2] {
    [
        KeyValue::new("redis", if counted { "counted" } else { "away" }),
        KeyValue::new("record", if through_record { "settled" } else { "untouched" }),
    ]
}

/// Sweeps for silent agents.
#[derive(Debug, Clone)]
pub(crate) struct Sweeps {
    silent: Counter<u64>,
    mass_silences: Counter<u64>,
}

impl Default for Sweeps {
    /// Makes the counters, each at zero.
    fn default() -> Self {
        let silent = meter()
            .u64_counter("registry.agents.silent")
            .with_unit("{agent}")
            .with_description("agents marked as offline because they sent no beat")
            .build();
        let mass_silences = meter()
            .u64_counter("registry.sweeps.braked")
            .with_unit("{sweep}")
            .with_description("sweeps that marked no agent because too many were silent at once")
            .build();
        silent.add(0, &[]);
        mass_silences.add(0, &[]);
        Self { silent, mass_silences }
    }
}

impl Sweeps {
    /// Counts agents that were marked as offline.
    pub(crate) fn marked(&self, agents: usize) {
        self.silent.add(u64::try_from(agents).unwrap_or(u64::MAX), &[]);
    }

    /// Counts a sweep that found a mass silence.
    pub(crate) fn mass_silence(&self) {
        self.mass_silences.add(1, &[]);
    }
}

/// Attempts to deliver a message.
#[derive(Debug, Clone)]
pub(crate) struct Deliveries(Histogram<f64>);

impl Default for Deliveries {
    fn default() -> Self {
        let histogram = meter()
            .f64_histogram("registry.relay.attempt.duration")
            .with_unit("s")
            .with_description(
                "time until an agent answered a message or the attempt failed, by what followed",
            )
            .build();
        Self(histogram)
    }
}

impl Deliveries {
    pub(crate) fn attempted(&self, verdict: &Verdict, took: Duration) {
        let (verdict, problem) = match verdict {
            Verdict::Delivered(_) => ("delivered", ""),
            Verdict::Retry { problem, .. } => ("again", problem.code()),
            Verdict::GivenUp(problem) => ("given_up", problem.code()),
        };
        let labels = [KeyValue::new("verdict", verdict), KeyValue::new("problem", problem)];
        self.0.record(took.as_secs_f64(), &labels);
    }
}
