//! Counts open jobs and dead letters, for the metrics.

use svc_core::data::{
    pg::{self, Pool},
    pg_enum::PgEnum,
};

use crate::{
    domain::job::StateLabel,
    metrics::Metrics,
    store::{dead_letters, jobs},
};

/// Counts open jobs by state, zeros included, and unresolved dead letters.
///
/// # Errors
/// [`pg::Error`] if they cannot be counted.
pub async fn count(pool: &Pool, metrics: &Metrics) -> Result<(), pg::Error> {
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
