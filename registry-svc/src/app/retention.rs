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
        while self.delete_keys().await? {}
        while self.delete_messages().await? {}
        while self.delete_lanes().await? {}
        Ok(())
    }

    async fn delete_keys(&self) -> Result<bool, pg::Error> {
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(idempotency::sweep(&mut db, self.batch).await?))
    }

    async fn delete_messages(&self) -> Result<bool, pg::Error> {
        let before = self.clock.now() - self.messages;
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(store::messages::delete_settled(&mut db, before, self.batch).await?))
    }

    async fn delete_lanes(&self) -> Result<bool, pg::Error> {
        let mut db = self.pool.acquire().await?;
        Ok(self.is_full(store::lanes::delete_idle(&mut db, self.batch).await?))
    }

    fn is_full(&self, deleted: u64) -> bool {
        i64::try_from(deleted).is_ok_and(|deleted| deleted >= self.batch)
    }
}
