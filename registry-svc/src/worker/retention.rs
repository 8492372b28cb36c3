//! Deletes rows that no longer count: idempotency keys older than their 24 hours, messages that ended long ago,
//! lanes in which nothing is left. Nothing else reads those, so every replica may do it; they skip each other's rows.

use std::time::Duration;

use svc_core::{
    data::{
        idempotency,
        pg::{self, Pool},
    },
    run::{
        clock::SharedClock,
        lifecycle::{Lifecycle, LoopResult},
    },
};

use crate::{config::RetentionConfig, store};

/// Starts the task.
pub fn start(pool: Pool, clock: SharedClock, config: &RetentionConfig, lifecycle: &Lifecycle) {
    let pass = Pass { pool, clock, batch: i64::from(config.batch), messages: config.messages };
    lifecycle.every("retention", config.period, move || {
        let pass = pass.clone();
        async move { pass.run().await }
    });
}

#[derive(Debug, Clone)]
struct Pass {
    pool: Pool,
    clock: SharedClock,
    batch: i64,
    messages: Duration,
}

impl Pass {
    /// Batch after batch of each kind until one is short.
    async fn run(&self) -> LoopResult {
        while self.keys().await? {}
        while self.messages().await? {}
        while self.lanes().await? {}
        Ok(())
    }

    async fn keys(&self) -> Result<bool, pg::Error> {
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(idempotency::sweep(&mut db, self.batch).await?))
    }

    async fn messages(&self) -> Result<bool, pg::Error> {
        let before = self.clock.now() - self.messages;
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(store::messages::delete_settled(&mut db, before, self.batch).await?))
    }

    async fn lanes(&self) -> Result<bool, pg::Error> {
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(store::lanes::delete_idle(&mut db, self.batch).await?))
    }

    fn is_full(&self, deleted: u64) -> bool {
        i64::try_from(deleted).is_ok_and(|deleted| deleted >= self.batch)
    }
}
