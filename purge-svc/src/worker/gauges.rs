//! Counts open jobs by state, and dead letters, for the metrics. Every replica counts, with the same result.

use std::time::Duration;

use svc_core::{data::pg::Pool, run::lifecycle::Lifecycle};

use crate::{app::gauges, metrics::Metrics};

pub fn start(pool: Pool, metrics: Metrics, period: Duration, lifecycle: &Lifecycle) {
    lifecycle.every("purge gauges", period, move || {
        let (pool, metrics) = (pool.clone(), metrics.clone());
        async move { Ok(gauges::count(&pool, &metrics).await?) }
    });
}
