//! Passes committed events to the readers of this process, and hints to the readers of other processes.
//!
//! The hub does not wait for readers: a reader that falls too far behind misses events and reads Postgres
//! instead. It does not wait for Redis: a separate task sends the hints, and drops them when it cannot keep
//! up. Readers get all events of a turn that runs in this process from the hub, so they subscribe to hints
//! only for other turns.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use svc_core::{
    data::wake::{Subscription, Wake},
    id::{self, TurnId},
    run::lifecycle::Lifecycle,
};
use tokio::sync::{broadcast, mpsc};

use crate::domain::event::StoredEvent;

/// Maximum hints that wait to be sent.
const OUTBOX: usize = 4096;

/// Maximum hints of one round trip.
const HINTS_AT_ONCE: usize = 256;

/// Pause of the sender after hints that no process was subscribed to, so that more hints go in one round
/// trip. It delays no client: a new subscriber reads Postgres first.
const NO_SUBSCRIBER_PAUSE: Duration = Duration::from_millis(5);

/// A message of the hub to the readers of one turn.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// Committed events, in order, without a gap.
    Committed(Arc<[StoredEvent]>),
    /// A log of the turn was closed, so the turn may no longer run in this process.
    Closed,
}

#[derive(Debug, Default)]
struct Turns {
    read: HashMap<TurnId, broadcast::Sender<News>>,
    /// Number of open logs of each turn that this process runs; briefly two if it handed a turn over and
    /// claimed it again.
    run: HashMap<TurnId, usize>,
}

/// One process's hub; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    capacity: usize,
    turns: Arc<Mutex<Turns>>,
    /// Content of this process's hints, by which it recognizes and ignores them.
    own: Bytes,
    wake: Wake,
    outbox: mpsc::Sender<TurnId>,
}

impl Hub {
    pub(super) fn start(capacity: usize, wake: Wake, lifecycle: &Lifecycle) -> Self {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let own = Bytes::from(id::new_id().as_bytes().to_vec());
        // The task ends when the last `Hub` is dropped.
        let send = send_hints(wake.clone(), own.clone(), inbox);
        let hard = lifecycle.hard();
        drop(lifecycle.spawn("journal hints", async move { hard.run_until_cancelled(send).await }));
        Self { capacity, turns: Arc::default(), own, wake, outbox }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to the events that are committed from now on.
    pub(super) fn subscribe(&self, turn_id: TurnId) -> broadcast::Receiver<News> {
        self.turns().read.entry(turn_id).or_insert_with(|| broadcast::channel(self.capacity).0).subscribe()
    }

    /// Counts a log of the turn that was opened.
    pub(super) fn enter(&self, turn_id: TurnId) {
        *self.turns().run.entry(turn_id).or_default() += 1;
    }

    /// Counts a log of the turn that was closed, and informs the turn's readers in this process.
    pub(super) fn leave(&self, turn_id: TurnId) {
        let mut turns = self.turns();
        if let Entry::Occupied(mut logs) = turns.run.entry(turn_id) {
            *logs.get_mut() -= 1;
            if *logs.get() == 0 {
                logs.remove();
            }
        }
        send(&turns, turn_id, News::Closed);
    }

    /// Whether this process runs the turn, so that the hub gets all its events.
    pub(super) fn runs_here(&self, turn_id: TurnId) -> bool {
        self.turns().run.contains_key(&turn_id)
    }

    /// Subscribes to hints about events that other processes commit.
    pub(super) async fn remote_hints(&self, turn_id: TurnId) -> Subscription {
        self.wake.subscribe(&topic(turn_id)).await
    }

    /// Whether this process sent the hint.
    pub(super) fn is_own(&self, sender: &Bytes) -> bool {
        *sender == self.own
    }

    /// Removes the turn's channel if it has no reader in this process.
    pub(super) fn forget_unread(&self, turn_id: TurnId) {
        let mut turns = self.turns();
        if turns.read.get(&turn_id).is_some_and(|sender| sender.receiver_count() == 0) {
            turns.read.remove(&turn_id);
        }
    }

    /// Passes committed events to the readers of this process, and sends a hint to other processes.
    pub(super) fn publish(&self, turn_id: TurnId, events: Vec<StoredEvent>) {
        if events.is_empty() {
            return;
        }
        send(&self.turns(), turn_id, News::Committed(events.into()));
        // A full outbox means that Redis is slow; remote readers poll.
        let _full = self.outbox.try_send(turn_id);
    }
}

fn send(turns: &Turns, turn_id: TurnId, news: News) {
    if let Some(sender) = turns.read.get(&turn_id) {
        // All readers may have left.
        let _readers = sender.send(news);
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
        let heard = wake.publish_all(topics.iter().map(|topic| (topic.as_str(), own.as_ref()))).await;
        if heard == 0 {
            tokio::time::sleep(NO_SUBSCRIBER_PAUSE).await;
        }
    }
}
