//! The metrics of purge-svc: names, units and descriptions.

use chrono::TimeDelta;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram},
};

use crate::domain::{custodian::Custodian, job::Cause, trigger::Trigger};

/// Instruments of purge-svc; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    committed: Counter<u64>,
    duration: Histogram<f64>,
    failures: Counter<u64>,
    open: Gauge<u64>,
    dead_letters: Gauge<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let meter = global::meter("steward");
        Self {
            committed: meter
                .u64_counter("purge.committed")
                .with_unit("{purge}")
                .with_description("erasures with a receipt, by trigger")
                .build(),
            duration: meter
                .f64_histogram("purge.duration")
                .with_unit("s")
                .with_description("time from an erasure's acceptance to its receipt, by trigger")
                .with_boundaries(vec![1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0, 86400.0, 432_000.0])
                .build(),
            failures: meter
                .u64_counter("purge.step.failures")
                .with_unit("{failure}")
                .with_description("failed steps, by custodian and cause")
                .build(),
            open: meter
                .u64_gauge("purge.open")
                .with_unit("{purge}")
                .with_description("open erasures, by state")
                .build(),
            dead_letters: meter
                .u64_gauge("purge.dead_letters.unresolved")
                .with_unit("{item}")
                .with_description("unresolved dead letters")
                .build(),
        }
    }
}

impl Metrics {
    /// Counts a receipt, and records the time from the acceptance of its job to the receipt, `after`.
    pub fn committed(&self, trigger: Trigger, after: TimeDelta) {
        let labels = [KeyValue::new("trigger", trigger.name())];
        self.committed.add(1, &labels);
        self.duration.record(after.as_seconds_f64(), &labels);
    }

    /// Counts a failed step.
    pub fn failed(&self, custodian: Option<Custodian>, cause: Cause) {
        let custodian = custodian.map_or("", Custodian::service);
        let labels = [KeyValue::new("custodian", custodian), KeyValue::new("cause", cause.name())];
        self.failures.add(1, &labels);
    }

    /// Sets the number of open jobs in one state.
    pub fn open(&self, state: &'static str, jobs: u64) {
        self.open.record(jobs, &[KeyValue::new("state", state)]);
    }

    /// Sets the number of unresolved dead letters.
    pub fn dead_letters(&self, letters: u64) {
        self.dead_letters.record(letters, &[]);
    }
}
