//! Deletes rows that no longer count: idempotency keys older than their 24 hours. Nothing else reads those, so
//! every replica may do it; they skip each other's rows.

use svc_core::{
    data::{
        idempotency,
        pg::{self, Pool},
    },
    run::lifecycle::{Lifecycle, LoopResult},
};

use crate::config::RetentionConfig;

/// Starts the task.
pub fn start(pool: Pool, config: &RetentionConfig, lifecycle: &Lifecycle) {
    let batch = i64::from(config.batch);
    lifecycle.every("retention", config.period, move || {
        let pool = pool.clone();
        async move { run(&pool, batch).await }
    });
}

/// One pass: batch after batch until one is short.
async fn run(pool: &Pool, batch: i64) -> LoopResult {
    loop {
        let deleted = sweep(pool, batch).await?;
        if i64::try_from(deleted).is_ok_and(|deleted| deleted < batch) {
            return Ok(());
        }
    }
}

async fn sweep(pool: &Pool, batch: i64) -> Result<u64, pg::Error> {
    let mut db = pool.acquire().await?;
    idempotency::sweep(&mut db, batch).await
}
