//! Claims turns for this process: turns that another worker left, then queued ones.

use std::{sync::Arc, time::Duration};

use svc_core::data::pg::{self, Pool};
use uuid::Uuid;

use crate::{
    domain::turn::Turn,
    store::claims::{self, Bounds},
};

/// Claims turns under one owner's name; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub pool: Pool,
    pub owner: Arc<str>,
    pub lease_ttl: Duration,
    /// Maximum turns of one account that run at once, in all processes. Concurrent claims may exceed it
    /// briefly.
    pub max_running_per_account: u32,
}

impl Claims {
    /// Checks that Postgres answers.
    pub(crate) async fn ping(&self) -> Result<(), pg::Error> {
        claims::ping(&mut *self.pool.acquire().await?).await
    }

    /// Claims up to `limit` turns; returns false if there were fewer.
    ///
    /// It first claims turns that another worker handed over and, if `expired` is set, turns with an expired
    /// lease. Then it claims queued turns with an id of at least `scan_from`, and sets `scan_from` to the
    /// last one claimed. It passes each batch to `start` before the next claim, because a claimed turn that
    /// is not started would idle until its lease expires.
    pub(crate) async fn claim(
        &self,
        scan_from: &mut Uuid,
        expired: bool,
        limit: i64,
        mut start: impl FnMut(Vec<Turn>),
    ) -> Result<bool, pg::Error> {
        let (owner, ttl) = (&*self.owner, self.lease_ttl);
        let mut db = self.pool.acquire().await?;
        let taken = claims::take_over(&mut db, owner, ttl, expired, limit).await?;
        let mut left = limit - i64::try_from(taken.len()).unwrap_or(limit);
        start(taken);
        while left > 0 {
            let bounds = Bounds { limit: left, of_account: self.max_running_per_account.into() };
            let queued = claims::claim_queued(&mut db, owner, ttl, *scan_from, bounds).await?;
            // A claim may return fewer turns than asked for because an account is at its limit; the next
            // claim starts after the returned turns.
            let Some(last) = queued.iter().map(|turn| turn.id.0).max() else { return Ok(false) };
            *scan_from = last;
            left -= i64::try_from(queued.len()).unwrap_or(left);
            start(queued);
        }
        Ok(true)
    }
}
