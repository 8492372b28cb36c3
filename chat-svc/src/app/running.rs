//! The turns that this process runs, and the renewal of their leases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use svc_core::{
    data::pg::{self, Pool},
    id::TurnId,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{
    events,
    turns::{self, Renewal},
};

/// Pause before the lease of a locked turn is renewed again.
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// Registry of the turns that this process runs; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RunningTurns {
    pool: Pool,
    turns: Arc<Mutex<HashMap<TurnId, Running>>>,
}

#[derive(Debug, Clone)]
struct Running {
    epoch: i64,
    fenced: CancellationToken,
}

/// Removes a turn from the registry when its driver ends.
#[derive(Debug)]
#[must_use = "dropping it removes the turn from the registry"]
pub(crate) struct Registration {
    running: RunningTurns,
    turn_id: TurnId,
    epoch: i64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut turns = self.running.lock();
        // The entry stays if this process has claimed the turn again.
        if turns.get(&self.turn_id).is_some_and(|running| running.epoch == self.epoch) {
            turns.remove(&self.turn_id);
        }
    }
}

impl RunningTurns {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, turns: Arc::default() }
    }

    /// Registers a claimed turn. `fenced` is cancelled once the turn was claimed again or is final.
    pub(crate) fn register(&self, turn_id: TurnId, epoch: i64, fenced: CancellationToken) -> Registration {
        let before = self.lock().insert(turn_id, Running { epoch, fenced });
        if let Some(before) = before {
            // This process claimed the turn again, so its first driver is fenced.
            before.fenced.cancel();
        }
        Registration { running: self.clone(), turn_id, epoch }
    }

    /// Stops the turn's driver in this process, if there is one and Postgres says that the turn was claimed
    /// again or is final.
    pub(crate) async fn check(&self, turn_id: TurnId) -> Result<(), pg::Error> {
        let Some(running) = self.lock().get(&turn_id).cloned() else { return Ok(()) };
        let mut db = self.pool.acquire().await?;
        if !events::is_held(&mut db, turn_id, running.epoch).await? {
            running.fenced.cancel();
        }
        Ok(())
    }

    /// Renews the leases of all registered turns. Locked turns are tried again for up to `retry_for`, because
    /// the journal locks a streaming turn again and again, each time for one commit.
    pub(crate) async fn renew(&self, ttl: Duration, retry_for: Duration) -> Result<(), pg::Error> {
        let mut held: Vec<(TurnId, i64)> =
            self.lock().iter().map(|(id, running)| (*id, running.epoch)).collect();
        let until = Instant::now() + retry_for;
        while !held.is_empty() {
            let mut db = self.pool.acquire().await?;
            let Renewal { kept, lost } = turns::renew(&mut db, &held, ttl).await?;
            drop(db);
            self.fence(&held, &lost);
            held.retain(|(id, _)| !kept.contains(id) && !lost.contains(id));
            if Instant::now() >= until {
                break;
            }
            if !held.is_empty() {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
        }
        Ok(())
    }

    fn fence(&self, held: &[(TurnId, i64)], lost: &[TurnId]) {
        let turns = self.lock();
        for (id, epoch) in held.iter().filter(|(id, _)| lost.contains(id)) {
            if let Some(running) = turns.get(id).filter(|running| running.epoch == *epoch) {
                running.fenced.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, Running>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
