//! Hands committed events to the readers of this process, and hints to those of others.
//!
//! Nobody waits for a reader: one that falls behind loses its place in the hub and reads the database instead.
//! Nobody waits for Redis either: hints are sent by a task of their own, and dropped when it cannot keep up.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use svc_core::{
    id::{self, TurnId},
    lifecycle::Lifecycle,
    wake::{Subscription, Wake},
};
use tokio::sync::{broadcast, mpsc};

use crate::domain::event::StoredEvent;

/// Hints that may wait to be sent.
const OUTBOX: usize = 4096;

/// Hints of one round trip.
const HINTS_AT_ONCE: usize = 256;

/// Committed events of one turn, in order, without a gap.
pub(super) type Committed = Arc<[StoredEvent]>;

/// One process's hub.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    capacity: usize,
    turns: Arc<Mutex<HashMap<TurnId, broadcast::Sender<Committed>>>>,
    /// What this process signs its hints with: it needs none of its own.
    own: Bytes,
    wake: Wake,
    outbox: mpsc::Sender<TurnId>,
}

impl Hub {
    pub(super) fn start(capacity: usize, wake: Wake, lifecycle: &Lifecycle) -> Self {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let own = Bytes::from(id::new_id().as_bytes().to_vec());
        // Ends with the last handle.
        let send = send_hints(wake.clone(), own.clone(), inbox);
        let hard = lifecycle.hard();
        drop(lifecycle.spawn("journal hints", async move { hard.run_until_cancelled(send).await }));
        Self { capacity, turns: Arc::default(), own, wake, outbox }
    }

    /// Registers for what is committed from now on.
    pub(super) fn subscribe(&self, turn_id: TurnId) -> broadcast::Receiver<Committed> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(turn_id).or_insert_with(|| broadcast::channel(self.capacity).0).subscribe()
    }

    /// Registers for hints about what other processes commit.
    pub(super) async fn hints_of_others(&self, turn_id: TurnId) -> Subscription {
        self.wake.subscribe(&topic(turn_id)).await
    }

    /// Whether a hint is this process's own.
    pub(super) fn is_own(&self, sender: &Bytes) -> bool {
        *sender == self.own
    }

    /// Forgets a turn that nobody of this process reads any more.
    pub(super) fn tidy(&self, turn_id: TurnId) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.get(&turn_id).is_some_and(|sender| sender.receiver_count() == 0) {
            turns.remove(&turn_id);
        }
    }

    /// Hands out what was committed.
    pub(super) fn publish(&self, turn_id: TurnId, events: Vec<StoredEvent>) {
        if events.is_empty() {
            return;
        }
        {
            let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = turns.get(&turn_id) {
                // Nobody listening is no error.
                let _readers = sender.send(events.into());
            }
        }
        // A full outbox means that Redis is slow: readers elsewhere look by themselves.
        let _full = self.outbox.try_send(turn_id);
    }
}

/// The topic of hints about a turn's events.
fn topic(turn_id: TurnId) -> String {
    format!("chat.turn:{turn_id}")
}

async fn send_hints(wake: Wake, own: Bytes, mut inbox: mpsc::Receiver<TurnId>) {
    let mut waiting = Vec::with_capacity(HINTS_AT_ONCE);
    while inbox.recv_many(&mut waiting, HINTS_AT_ONCE).await > 0 {
        let topics: BTreeSet<String> = waiting.drain(..).map(topic).collect();
        wake.publish_all(topics.iter().map(|topic| (topic.as_str(), own.as_ref()))).await;
    }
}
