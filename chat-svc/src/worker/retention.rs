//! Deletes idempotency keys that no longer count. Every replica may do it: rows are skipped while another holds
//! them.

use std::time::Duration;

use serde::Deserialize;
use svc_core::{
    data::{idempotency, pg::Pool},
    run::lifecycle::Lifecycle,
};

/// Rows that no longer count.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// How often they are deleted.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Rows deleted in one statement.
    pub batch: u32,
}

/// Starts the task.
pub fn start(pool: Pool, config: &RetentionConfig, lifecycle: &Lifecycle) {
    let (batch, soft) = (i64::from(config.batch), lifecycle.soft());
    lifecycle.every("idempotency keys", config.period, move || {
        let (pool, soft) = (pool.clone(), soft.clone());
        async move {
            let mut db = pool.acquire().await?;
            loop {
                let deleted = idempotency::sweep(&mut db, batch).await?;
                if soft.is_cancelled() || i64::try_from(deleted).is_ok_and(|deleted| deleted < batch) {
                    return Ok(());
                }
            }
        }
    });
}
