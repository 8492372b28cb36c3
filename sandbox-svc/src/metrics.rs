//! The metrics of sandbox-svc: names, units and descriptions.

use chrono::TimeDelta;
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};

use crate::domain::sandbox::{Cause, Sandbox};

/// Instruments of sandbox-svc; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    creations: Histogram<f64>,
    ended: Counter<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let meter = global::meter("steward");
        Self {
            creations: meter
                .f64_histogram("sandbox.create.duration")
                .with_unit("s")
                .with_description("time from the request to the guest's first answer, for the pool or not")
                .with_boundaries(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0])
                .build(),
            ended: meter
                .u64_counter("sandbox.ended")
                .with_unit("{sandbox}")
                .with_description("sandboxes with a confirmed absence, by cause")
                .build(),
        }
    }
}

impl Metrics {
    /// Records the time `after` from the request for a sandbox until it ran.
    pub fn created(&self, sandbox: &Sandbox, after: TimeDelta) {
        self.creations.record(after.as_seconds_f64(), &[KeyValue::new("warm", sandbox.warm)]);
    }

    /// Counts a sandbox that became final.
    pub fn ended(&self, cause: Option<Cause>) {
        self.ended.add(1, &[KeyValue::new("cause", cause.map_or("", Cause::name))]);
    }
}
