//! chat-svc's metrics: every name, unit and meaning.

use opentelemetry::{
    global,
    metrics::{Histogram, Meter},
};

fn meter() -> Meter {
    global::meter("steward")
}

/// Time to commit one batch of the event journal: an event waits for one or two commits before clients see
/// it.
pub(crate) fn journal_commits() -> Histogram<f64> {
    let halves = [1.0, 1.5].into_iter();
    let boundaries =
        (0..13).flat_map(|power| halves.clone().map(move |half| 0.000_25 * half * f64::from(1 << power)));
    meter()
        .f64_histogram("steward.journal.commit.duration")
        .with_unit("s")
        .with_description("Time to commit one batch of the event journal.")
        .with_boundaries(boundaries.collect())
        .build()
}

/// Metrics of model calls, named by OpenTelemetry's conventions for generative AI.
#[derive(Debug, Clone)]
pub(crate) struct ModelMetrics {
    pub tokens: Histogram<u64>,
    pub duration: Histogram<f64>,
    pub first_chunk: Histogram<f64>,
}

impl ModelMetrics {
    pub(crate) fn new() -> Self {
        let seconds = |name, description| {
            meter()
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries((0..14).map(|power| 0.01 * f64::from(1 << power)).collect())
                .build()
        };
        Self {
            tokens: meter()
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_description("Tokens of model calls, by direction.")
                .with_boundaries((0..14).map(|n| f64::from(4_u32.pow(n))).collect())
                .build(),
            duration: seconds(
                "gen_ai.client.operation.duration",
                "Time from a model call's start to its stream's end.",
            ),
            first_chunk: seconds(
                "gen_ai.client.operation.time_to_first_chunk",
                "Time from a model call's start to its first content.",
            ),
        }
    }
}
