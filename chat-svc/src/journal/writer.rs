//! The writers: each commits the next batch as soon as the last one ended.
//!
//! One statement writes the events of every turn of a batch and proves each turn's epoch under a lock. A turn that
//! the statement did not return was written nothing of: it is asked about alone, and either its worker was
//! fenced out (its events are dropped, its worker told) or the row was locked at that moment (its events go with
//! the next batch). A batch that failed is tried again turn by turn, so that one turn cannot hold up others.
//!
//! A writer owns the sequence numbers of the turns whose events it holds: they are given after adjacent deltas
//! were merged, so what a client sees as one event is one row.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{global, metrics::Histogram};
use svc_core::{
    data::pg::{self, Pool},
    id::TurnId,
    run::{failpoint, lifecycle::Lifecycle},
    wire::error::Chain,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{JournalConfig, hub::Hub};
use crate::{
    domain::event::{StoredEvent, TurnEvent},
    store::events::{self, Batch},
};

/// Pause before a turn that was locked is tried again, where nothing else is to be written.
const LOCKED_PAUSE: Duration = Duration::from_millis(2);

/// How long a writer without work keeps its connection. While it writes it gives none back: handing one over costs
/// a round trip, and the next would have other plans and pages at hand.
const KEEP_CONNECTION: Duration = Duration::from_millis(100);

/// The turn is run by somebody else, or by nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the turn's epoch was passed")]
pub struct Fenced;

/// What a log and its writer know of a turn together.
#[derive(Debug)]
struct Shared {
    turn_id: TurnId,
    epoch: i64,
    /// Newest committed event.
    last_seq: AtomicI64,
    fenced: CancellationToken,
}

enum Entry {
    Event {
        turn: Arc<Shared>,
        event: TurnEvent,
        /// Held until the event is committed or dropped: it is what bounds the queue.
        room: OwnedSemaphorePermit,
    },
    /// Answered once everything before it is committed or dropped.
    Flush { turn: Arc<Shared>, done: oneshot::Sender<()> },
}

impl Entry {
    fn turn(&self) -> &Arc<Shared> {
        match self {
            Self::Event { turn, .. } | Self::Flush { turn, .. } => turn,
        }
    }
}

/// A handle on one writer task.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::UnboundedSender<Entry>,
    room: Arc<Semaphore>,
    max_queued_bytes: usize,
}

impl Writer {
    pub(super) fn start(config: Arc<JournalConfig>, pool: Pool, hub: Hub, lifecycle: &Lifecycle) -> Self {
        // Bounded in bytes by `room`, which every event holds a piece of.
        let (queue, entries) = mpsc::unbounded_channel();
        let max_queued_bytes = config.max_queued_bytes.min(Semaphore::MAX_PERMITS);
        let commits = commits();
        let task = Task {
            config,
            pool,
            connection: None,
            hub,
            entries,
            commits,
            locked: BTreeMap::new(),
            held: None,
        };
        // It ends with the last handle: workers flush on their way out.
        drop(lifecycle.spawn("journal writer", task.run(lifecycle.hard())));
        Self { queue, room: Arc::new(Semaphore::new(max_queued_bytes)), max_queued_bytes }
    }
}

/// The log of one turn, in the hands of the worker that runs it.
#[derive(Debug)]
pub struct TurnLog {
    turn: Arc<Shared>,
    writer: Writer,
    hub: Hub,
}

impl Drop for TurnLog {
    fn drop(&mut self) {
        self.hub.leave(self.turn.turn_id);
    }
}

impl TurnLog {
    pub(super) fn new(
        turn_id: TurnId,
        epoch: i64,
        last_seq: i64,
        fenced: CancellationToken,
        writer: Writer,
        hub: Hub,
    ) -> Self {
        hub.enter(turn_id);
        let turn = Shared { turn_id, epoch, last_seq: AtomicI64::new(last_seq), fenced };
        Self { turn: Arc::new(turn), writer, hub }
    }

    /// Queues an event. Waits while the writer's queue is full, so whoever reads a model in this task reads it no
    /// further.
    ///
    /// # Errors
    /// [`Fenced`] once the epoch was passed.
    pub async fn append(&self, event: TurnEvent) -> Result<(), Fenced> {
        let weight = event.weight().min(self.writer.max_queued_bytes);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let room = tokio::select! {
            biased;
            () = self.turn.fenced.cancelled() => return Err(Fenced),
            room = self.writer.room.clone().acquire_many_owned(weight) => room.map_err(|_| Fenced)?,
        };
        self.writer.queue.send(Entry::Event { turn: self.turn.clone(), event, room }).map_err(|_| Fenced)
    }

    /// Waits until everything appended so far is committed. Returns the newest event's place.
    ///
    /// # Errors
    /// [`Fenced`] if the epoch was passed: what was not committed never will be.
    pub async fn flush(&self) -> Result<i64, Fenced> {
        let (done, flushed) = oneshot::channel();
        self.writer.queue.send(Entry::Flush { turn: self.turn.clone(), done }).map_err(|_| Fenced)?;
        tokio::select! {
            biased;
            () = self.turn.fenced.cancelled() => Err(Fenced),
            flushed = flushed => {
                flushed.map_err(|_| Fenced)?;
                // The writer may have answered a turn whose events it dropped.
                if self.turn.fenced.is_cancelled() { Err(Fenced) } else { Ok(self.last_seq()) }
            }
        }
    }

    /// Tells the log, and readers, what a transaction of the turn's worker added after a [`Self::flush`].
    pub fn committed(&self, events: Vec<StoredEvent>) {
        if let Some(last) = events.last() {
            self.turn.last_seq.store(last.seq, Ordering::Release);
        }
        self.hub.publish(self.turn.turn_id, events);
    }

    /// The newest committed event's place.
    #[must_use]
    pub fn last_seq(&self) -> i64 {
        self.turn.last_seq.load(Ordering::Acquire)
    }
}

/// One writer task.
struct Task {
    config: Arc<JournalConfig>,
    pool: Pool,
    /// The connection of the last batch, while another may follow soon.
    connection: Option<pg::Connection>,
    hub: Hub,
    entries: mpsc::UnboundedReceiver<Entry>,
    commits: Histogram<f64>,
    /// Turns whose row was locked when the last batch was written: they come first in the next.
    locked: BTreeMap<TurnId, Portion>,
    /// An entry that did not fit into the last batch.
    held: Option<Entry>,
}

/// What one turn adds in one batch.
struct Portion {
    turn: Arc<Shared>,
    events: Vec<TurnEvent>,
    rooms: Vec<OwnedSemaphorePermit>,
    flushes: Vec<oneshot::Sender<()>>,
}

/// What became of a turn's portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Written,
    Fenced,
    Locked,
}

/// Whether an earlier try may have been committed unheard.
#[derive(Debug, Clone, Copy)]
enum Try {
    First,
    Again,
}

impl Task {
    async fn run(mut self, hard: CancellationToken) {
        let work = async {
            while self.wait().await {
                let portions = self.gather();
                self.commit(portions).await;
            }
        };
        // Hard ends it in the middle: what was not committed was not seen by anybody either.
        let _ended = hard.run_until_cancelled(work).await;
    }

    /// Waits until there is something to write; `false` once there never will be.
    async fn wait(&mut self) -> bool {
        if self.held.is_some() {
            return true;
        }
        if self.locked.is_empty() {
            if self.connection.is_some() {
                match tokio::time::timeout(KEEP_CONNECTION, self.entries.recv()).await {
                    Ok(entry) => self.held = entry,
                    Err(_) => self.connection = None,
                }
            }
            if self.held.is_none() {
                self.held = self.entries.recv().await;
            }
            return self.held.is_some();
        }
        // A lock is held for a moment: an ending, a renewal.
        if let Ok(entry) = tokio::time::timeout(LOCKED_PAUSE, self.entries.recv()).await {
            self.held = entry;
        }
        true
    }

    /// Takes what waits, up to the cap, and merges it by turn.
    fn gather(&mut self) -> BTreeMap<TurnId, Portion> {
        let mut portions = mem::take(&mut self.locked);
        let mut taken = 0;
        while taken < self.config.max_batch_events {
            let Some(entry) = self.held.take().or_else(|| self.entries.try_recv().ok()) else { break };
            let turn = entry.turn();
            // A turn that was handed over and claimed back by this process has a log of its own again.
            if portions.get(&turn.turn_id).is_some_and(|portion| portion.turn.epoch != turn.epoch) {
                self.held = Some(entry);
                break;
            }
            let portion = portions.entry(turn.turn_id).or_insert_with(|| Portion::new(turn.clone()));
            match entry {
                Entry::Flush { done, .. } => portion.flushes.push(done),
                Entry::Event { event, room, .. } => {
                    taken += 1;
                    portion.push(event, room);
                }
            }
        }
        portions
    }

    /// Commits a batch; comes back when every turn of it was written, fenced out, or found locked.
    async fn commit(&mut self, portions: BTreeMap<TurnId, Portion>) {
        let (idle, pending): (Vec<_>, Vec<_>) = portions
            .into_values()
            .partition(|portion| portion.turn.fenced.is_cancelled() || portion.events.is_empty());
        for portion in idle {
            portion.settle();
        }
        if pending.is_empty() {
            return;
        }
        let began = Instant::now();
        match self.write(&pending, Try::First).await {
            Ok(verdicts) => {
                self.commits.record(began.elapsed().as_secs_f64(), &[]);
                failpoint::hit("chat.journal.committed").await;
                for (portion, verdict) in pending.into_iter().zip(verdicts) {
                    self.close(portion, verdict);
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = %Chain(&error), turns = pending.len(), "journal batch failed, trying turn by turn"
                );
                for portion in pending {
                    let verdict = self.write_until_answered(&portion).await;
                    self.close(portion, verdict);
                }
            }
        }
    }

    /// Tries one turn's portion until the database answers. Queues fill meanwhile, and models are read no
    /// further; if it takes longer than a lease, another worker takes the turn and the answer is "fenced".
    ///
    /// An earlier try may have been committed without our hearing of it, so the portion must stay exactly as it
    /// is until there is a verdict: a locked turn is tried again here, not merged into the next batch.
    async fn write_until_answered(&mut self, portion: &Portion) -> Verdict {
        loop {
            match self.write(std::slice::from_ref(portion), Try::Again).await {
                Ok(verdicts) => match verdicts.first() {
                    Some(Verdict::Locked) | None => tokio::time::sleep(LOCKED_PAUSE).await,
                    Some(verdict) => return *verdict,
                },
                Err(error) if is_passing(&error) => {
                    tracing::debug!(error = %Chain(&error), turn.id = %portion.turn.turn_id, "journal waits");
                    tokio::time::sleep(self.config.retry_pause).await;
                }
                Err(error) => {
                    // No outage: this turn cannot be journaled, and its worker must not go on unseen.
                    tracing::error!(
                        error = %Chain(&error), turn.id = %portion.turn.turn_id, "events cannot be stored"
                    );
                    return Verdict::Fenced;
                }
            }
        }
    }

    /// One statement for all `portions`, and a question about each that it did not write.
    async fn write(&mut self, portions: &[Portion], which: Try) -> Result<Vec<Verdict>, pg::Error> {
        let mut batch = Batch::default();
        for portion in portions {
            batch.turns.push(portion.turn.turn_id.0);
            batch.epochs.push(portion.turn.epoch);
            for (seq, event) in portion.numbered() {
                batch.push(portion.turn.turn_id, seq, event.kind(), event.payload());
            }
        }
        // Taken out, so that one that failed, or was dropped in the middle, is not used again.
        let mut db = match self.connection.take() {
            Some(db) => db,
            None => self.pool.acquire().await?,
        };
        let written = match which {
            Try::First => events::append(&mut db, &batch).await?,
            Try::Again => events::append_again(&mut db, &batch).await?,
        };
        let written: HashSet<TurnId> = written.into_iter().collect();
        let mut verdicts = Vec::with_capacity(portions.len());
        for Portion { turn, .. } in portions {
            verdicts.push(if written.contains(&turn.turn_id) {
                Verdict::Written
            } else if events::is_held(&mut db, turn.turn_id, turn.epoch).await? {
                Verdict::Locked
            } else {
                Verdict::Fenced
            });
        }
        self.connection = Some(db);
        Ok(verdicts)
    }

    /// Shows what was written; drops what was fenced out; keeps what was locked.
    fn close(&mut self, portion: Portion, verdict: Verdict) {
        match verdict {
            Verdict::Written => {
                let stored: Vec<StoredEvent> =
                    portion.numbered().map(|(seq, event)| event.stored(seq)).collect();
                if let Some(last) = stored.last() {
                    portion.turn.last_seq.store(last.seq, Ordering::Release);
                }
                self.hub.publish(portion.turn.turn_id, stored);
                portion.settle();
            }
            Verdict::Fenced => {
                portion.turn.fenced.cancel();
                portion.settle();
            }
            Verdict::Locked => {
                self.locked.insert(portion.turn.turn_id, portion);
            }
        }
    }
}

impl Portion {
    fn new(turn: Arc<Shared>) -> Self {
        Self { turn, events: Vec::new(), rooms: Vec::new(), flushes: Vec::new() }
    }

    fn push(&mut self, event: TurnEvent, room: OwnedSemaphorePermit) {
        self.rooms.push(room);
        match self.events.last_mut() {
            None => self.events.push(event),
            Some(last) => {
                if let Err(event) = last.merge(event) {
                    self.events.push(event);
                }
            }
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (i64, &TurnEvent)> {
        (self.turn.last_seq.load(Ordering::Acquire) + 1..).zip(&self.events)
    }

    /// Gives the room back and answers those who wait.
    fn settle(self) {
        drop(self.rooms);
        for done in self.flushes {
            // A worker that went away waits for no answer.
            let _gone = done.send(());
        }
    }
}

/// How long commits take: what an event waits for, once or twice, before anybody is shown it.
fn commits() -> Histogram<f64> {
    let halves = [1.0, 1.5].into_iter();
    let boundaries =
        (0..13).flat_map(|power| halves.clone().map(move |half| 0.000_25 * half * f64::from(1 << power)));
    global::meter("steward.chat")
        .f64_histogram("steward.journal.commit.duration")
        .with_unit("s")
        .with_description("Time to commit one batch of the event journal.")
        .with_boundaries(boundaries.collect())
        .build()
}

/// Whether trying again later may help. Only what the database says about these very rows is for ever: any other
/// error, even one that nobody has seen before, may be a server that comes back.
fn is_passing(error: &pg::Error) -> bool {
    !matches!(error, pg::Error::Conflict { .. } | pg::Error::Inconsistency { .. })
}
