//! The turns that this process has in hand, and their leases.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use svc_core::{
    data::{pg, pg::Pool},
    id::TurnId,
    run::lifecycle::Lifecycle,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{
    events,
    turns::{self, Renewal},
};

/// Pause before a turn that was locked is tried again.
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// The turns in hand; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct InHand(Arc<Mutex<HashMap<TurnId, Holding>>>);

#[derive(Debug, Clone)]
struct Holding {
    epoch: i64,
    fenced: CancellationToken,
}

/// Takes a turn out of hand when its driver ends, however it ends.
#[derive(Debug)]
pub struct Grip {
    in_hand: InHand,
    turn_id: TurnId,
    epoch: i64,
}

impl Drop for Grip {
    fn drop(&mut self) {
        let mut turns = self.in_hand.turns();
        // The same process may have taken the turn again meanwhile.
        if turns.get(&self.turn_id).is_some_and(|holding| holding.epoch == self.epoch) {
            turns.remove(&self.turn_id);
        }
    }
}

impl InHand {
    /// Takes a claimed turn in hand; `fenced` fires when the lease turns out to be somebody else's.
    #[must_use]
    pub fn take(&self, turn_id: TurnId, epoch: i64, fenced: CancellationToken) -> Grip {
        let before = self.turns().insert(turn_id, Holding { epoch, fenced });
        if let Some(before) = before {
            // Claimed again by this process: the first driver was passed like any other.
            before.fenced.cancel();
        }
        Grip { in_hand: self.clone(), turn_id, epoch }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.turns().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.turns().is_empty()
    }

    /// Somebody said that the turn was ended: looks, and stops its driver if so.
    pub async fn check(&self, pool: &Pool, turn_id: TurnId) -> Result<(), pg::Error> {
        let Some(holding) = self.turns().get(&turn_id).cloned() else { return Ok(()) };
        let mut db = pool.acquire().await?;
        if !events::is_held(&mut db, turn_id, holding.epoch).await? {
            holding.fenced.cancel();
        }
        Ok(())
    }

    /// Renews the lease of every turn in hand, trying for up to `patience` with those that are locked: the journal
    /// locks a turn that streams again and again, each time for the length of a commit.
    async fn renew(&self, pool: &Pool, ttl: Duration, patience: Duration) -> Result<(), pg::Error> {
        let mut held: Vec<(TurnId, i64)> =
            self.turns().iter().map(|(id, holding)| (*id, holding.epoch)).collect();
        let until = Instant::now() + patience;
        while !held.is_empty() {
            let mut db = pool.acquire().await?;
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
        let turns = self.turns();
        for (id, epoch) in held.iter().filter(|(id, _)| lost.contains(id)) {
            if let Some(holding) = turns.get(id).filter(|holding| holding.epoch == *epoch) {
                holding.fenced.cancel();
            }
        }
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, HashMap<TurnId, Holding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews every `period` what is in hand, for `ttl` at a time.
pub fn start(in_hand: InHand, pool: Pool, ttl: Duration, period: Duration, lifecycle: &Lifecycle) {
    lifecycle.every("turn leases", period, move || {
        let (in_hand, pool) = (in_hand.clone(), pool.clone());
        async move { Ok(in_hand.renew(&pool, ttl, period / 2).await?) }
    });
}
