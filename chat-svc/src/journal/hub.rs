//! Hands committed events to the readers of this process, and hints to those of others.
//!
//! Nobody waits for a reader: one that falls behind loses its place in the hub and reads the database instead.
//! Nobody waits for Redis either: hints are sent by a task of their own, and dropped when it cannot keep up.
//! Of a turn that runs in this process readers hear everything here first, so they ask for hints only about others.

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

/// Hints that may wait to be sent.
const OUTBOX: usize = 4096;

/// Hints of one round trip.
const HINTS_AT_ONCE: usize = 256;

/// Pause before the next hints where nobody heard the last: most turns are read where they run, and a process that
/// begins to listen reads the database first.
const UNHEARD_PAUSE: Duration = Duration::from_millis(5);

/// What readers hear of one turn.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// Events were committed: these, in order, without a gap.
    Committed(Arc<[StoredEvent]>),
    /// The turn does not run here any more.
    Left,
}

#[derive(Debug, Default)]
struct Turns {
    read: HashMap<TurnId, broadcast::Sender<News>>,
    /// Logs that are open here; two for a moment where a turn was handed over and claimed back.
    run: HashMap<TurnId, usize>,
}

/// One process's hub.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    capacity: usize,
    turns: Arc<Mutex<Turns>>,
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

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers for what is committed from now on.
    pub(super) fn subscribe(&self, turn_id: TurnId) -> broadcast::Receiver<News> {
        self.turns().read.entry(turn_id).or_insert_with(|| broadcast::channel(self.capacity).0).subscribe()
    }

    /// A log of the turn was opened here.
    pub(super) fn enter(&self, turn_id: TurnId) {
        *self.turns().run.entry(turn_id).or_default() += 1;
    }

    /// It was closed.
    pub(super) fn leave(&self, turn_id: TurnId) {
        let mut turns = self.turns();
        if let Entry::Occupied(mut logs) = turns.run.entry(turn_id) {
            *logs.get_mut() -= 1;
            if *logs.get() == 0 {
                logs.remove();
            }
        }
        tell(&turns, turn_id, News::Left);
    }

    /// Whether whatever the turn shows next is published here.
    pub(super) fn runs_here(&self, turn_id: TurnId) -> bool {
        self.turns().run.contains_key(&turn_id)
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
        let mut turns = self.turns();
        if turns.read.get(&turn_id).is_some_and(|sender| sender.receiver_count() == 0) {
            turns.read.remove(&turn_id);
        }
    }

    /// Hands out what was committed.
    pub(super) fn publish(&self, turn_id: TurnId, events: Vec<StoredEvent>) {
        if events.is_empty() {
            return;
        }
        tell(&self.turns(), turn_id, News::Committed(events.into()));
        // A full outbox means that Redis is slow: readers elsewhere look by themselves.
        let _full = self.outbox.try_send(turn_id);
    }
}

fn tell(turns: &Turns, turn_id: TurnId, news: News) {
    if let Some(sender) = turns.read.get(&turn_id) {
        // Nobody listening is no error.
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
            tokio::time::sleep(UNHEARD_PAUSE).await;
        }
    }
}
