//! The gateway's metrics: every name, unit and description.

use opentelemetry::{
    global,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

fn meter() -> Meter {
    global::meter("steward")
}

/// Measures requests, with the labels method, route and status.
pub(crate) fn request_duration() -> Histogram<f64> {
    meter()
        .f64_histogram("http.server.request.duration")
        .with_unit("s")
        .with_description("time from a request's head to its answer's head")
        .build()
}

pub(crate) fn streams_open() -> UpDownCounter<i64> {
    meter()
        .i64_up_down_counter("gateway.streams.open")
        .with_unit("{stream}")
        .with_description("streams of server-sent events open now")
        .build()
}

/// Counts ended streams. The label `end` is `complete`, `problem`, `revoked`, `drain` or `gone`.
pub(crate) fn streams_ended() -> Counter<u64> {
    meter()
        .u64_counter("gateway.streams.ended")
        .with_unit("{stream}")
        .with_description("streams of server-sent events that ended, by how")
        .build()
}

pub(crate) fn rate_limit_local() -> Counter<u64> {
    meter()
        .u64_counter("gateway.rate_limit.local")
        .with_unit("{request}")
        .with_description(
            "requests counted for the rate limit by this process alone, because Redis did not answer",
        )
        .build()
}
