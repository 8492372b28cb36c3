//! Counts what is open for the metrics: jobs by state, and dead letters. Every replica counts; they agree.

use std::time::Duration;

use svc_core::{
    data::{
        pg::{self, Pool},
        pg_enum::PgEnum,
    },
    run::lifecycle::Lifecycle,
};

use crate::{
    metrics::Metrics,
    store::{
        dead_letters,
        jobs::{self, StateLabel},
    },
};

/// Starts the task.
pub fn start(pool: Pool, metrics: Metrics, period: Duration, lifecycle: &Lifecycle) {
    lifecycle.every("purge gauges", period, move || {
        let (pool, metrics) = (pool.clone(), metrics.clone());
        async move { Ok(count(&pool, &metrics).await?) }
    });
}

async fn count(pool: &Pool, metrics: &Metrics) -> Result<(), pg::Error> {
    let mut db = pool.acquire().await?;
    let counts = jobs::count_by_state(&mut db).await?;
    for (state, label) in StateLabel::LABELS {
        let jobs = counts.iter().find(|(counted, _)| counted == state).map_or(0, |(_, jobs)| *jobs);
        metrics.open(label, u64::try_from(jobs).unwrap_or(0));
    }
    let letters = dead_letters::count_all_unresolved(&mut db).await?;
    metrics.dead_letters(u64::try_from(letters).unwrap_or(0));
    Ok(())
}
