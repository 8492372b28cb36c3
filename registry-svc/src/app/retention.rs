//! Deletes rows past their retention: idempotency keys after 24 hours, messages that ended long ago, and
//! lanes without messages. Every replica may run it; statements skip rows that another replica deletes.

use std::time::Duration;

use svc_core::{
    data::{
        idempotency,
        pg::{self, Pool},
    },
    run::clock::SharedClock,
};

use crate::store;

/// Deletes old rows. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Retention {
    pub pool: Pool,
    pub clock: SharedClock,
    /// Rows deleted in one statement.
    pub batch: i64,
    /// Retention of messages after their end.
    pub messages: Duration,
}

impl Retention {
    /// Deletes batch after batch of each kind, until a batch is not full.
    pub(crate) async fn run(&self) -> Result<(), pg::Error> {
        let (pool, batch) = (&self.pool, self.batch);
        let is_full = |deleted: u64| i64::try_from(deleted).is_ok_and(|deleted| deleted >= batch);
        while is_full(idempotency::sweep(&mut *pool.acquire().await?, batch).await?) {}
        let before = self.clock.now() - self.messages;
        while is_full(store::messages::delete_settled(&mut *pool.acquire().await?, before, batch).await?) {}
        while is_full(store::lanes::delete_idle(&mut *pool.acquire().await?, batch).await?) {}
        Ok(())
    }
}
