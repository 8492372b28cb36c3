//! The writers: each commits its next batch as soon as the previous one has ended.
//!
//! One statement locks each turn of the batch, checks its epoch, writes its events and returns the turns
//! written. For the other turns a second statement finds the reason: if the turn was claimed again or is
//! final, the writer drops the events and signals the worker; if the row was locked, it keeps the events for
//! the next batch. A failed batch is written again turn by turn, one after the other.
//!
//! A writer first merges adjacent deltas and then assigns sequence numbers, so that each event of a client is
//! one row.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use opentelemetry::metrics::Histogram;
use svc_core::{
    data::pg::{self, Pool},
    error::Chain,
    id::TurnId,
    run::{failpoint, lifecycle::Lifecycle},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use crate::{
    domain::{
        event::{StoredEvent, TurnEvent},
        settings::JournalConfig,
    },
    metrics,
    store::events::{self, Batch},
};

/// Pause before a locked turn is written again, if nothing else is to be written.
const LOCKED_PAUSE: Duration = Duration::from_millis(2);

/// Time for which an idle writer keeps its connection. A busy writer does not return it to the pool, because
/// that costs a round trip, and the next connection has not cached this writer's plans and pages.
const KEEP_CONNECTION: Duration = Duration::from_millis(100);

/// The turn was claimed again or is final, or its events cannot be stored: the worker must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the turn's epoch was passed")]
pub struct Fenced;

/// State of a turn that its log and the writer share.
#[derive(Debug)]
struct Shared {
    turn_id: TurnId,
    epoch: i64,
    /// Sequence number of the newest committed event.
    last_seq: AtomicI64,
    fenced: CancellationToken,
}

enum Entry {
    Event {
        turn: Arc<Shared>,
        event: TurnEvent,
        /// Permits for the event's bytes in the queue; held until the event is committed or dropped.
        room: OwnedSemaphorePermit,
    },
    /// Answered once all entries before it are committed or dropped.
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
        // `room` bounds the queue in bytes: every event holds permits for its size.
        let (queue, entries) = mpsc::unbounded_channel();
        let max_queued_bytes = config.max_queued_bytes.min(Semaphore::MAX_PERMITS);
        let task = Task {
            config,
            pool,
            connection: None,
            hub,
            entries,
            commits: metrics::journal_commits(),
            locked: BTreeMap::new(),
            held: None,
        };
        // The task ends when the last `Writer` is dropped, which is after the last flush of the workers.
        drop(lifecycle.spawn("journal writer", task.run(lifecycle.hard())));
        Self { queue, room: Arc::new(Semaphore::new(max_queued_bytes)), max_queued_bytes }
    }
}

/// The log of one turn, for the worker that runs it.
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

    /// Queues an event. Waits while the writer's queue is full, so that the calling worker stops reading its
    /// model.
    ///
    /// # Errors
    /// [`Fenced`] once the writer has cancelled `fenced` (see [`super::Journal::open`]) or has stopped.
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

    /// Waits until all appended events are committed. Returns the newest event's sequence number.
    ///
    /// # Errors
    /// As [`Self::append`]; the writer then drops the events that are not committed.
    pub async fn flush(&self) -> Result<i64, Fenced> {
        let (done, flushed) = oneshot::channel();
        self.writer.queue.send(Entry::Flush { turn: self.turn.clone(), done }).map_err(|_| Fenced)?;
        tokio::select! {
            biased;
            () = self.turn.fenced.cancelled() => Err(Fenced),
            flushed = flushed => {
                flushed.map_err(|_| Fenced)?;
                // The writer also answers after it dropped the events.
                if self.turn.fenced.is_cancelled() { Err(Fenced) } else { Ok(self.last_seq()) }
            }
        }
    }

    /// Publishes the events that a transaction of the turn's worker added after a [`Self::flush`].
    pub(crate) fn committed(&self, events: Vec<StoredEvent>) {
        if let Some(last) = events.last() {
            self.turn.last_seq.store(last.seq, Ordering::Release);
        }
        self.hub.publish(self.turn.turn_id, events);
    }

    /// Sequence number of the newest committed event.
    pub(crate) fn last_seq(&self) -> i64 {
        self.turn.last_seq.load(Ordering::Acquire)
    }
}

struct Task {
    config: Arc<JournalConfig>,
    pool: Pool,
    /// The connection of the last batch, kept for the next one.
    connection: Option<pg::Connection>,
    hub: Hub,
    entries: mpsc::UnboundedReceiver<Entry>,
    commits: Histogram<f64>,
    /// Turns with a locked row in the last batch; the next batch starts with them.
    locked: BTreeMap<TurnId, Portion>,
    /// An entry that did not fit into the last batch.
    held: Option<Entry>,
}

/// One turn's part of a batch.
struct Portion {
    turn: Arc<Shared>,
    events: Vec<TurnEvent>,
    rooms: Vec<OwnedSemaphorePermit>,
    flushes: Vec<oneshot::Sender<()>>,
}

/// Result of writing a portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Done,
    Fenced,
    Locked,
}

/// Whether an earlier attempt may have been committed although its answer was lost.
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
        // A forced stop may end the writer in the middle of a batch. That does no harm: clients have not seen
        // uncommitted events.
        let _ended = hard.run_until_cancelled(work).await;
    }

    /// Waits until there is something to write. Returns false once all handles are gone.
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
        // Endings and renewals hold the lock only briefly.
        if let Ok(entry) = tokio::time::timeout(LOCKED_PAUSE, self.entries.recv()).await {
            self.held = entry;
        }
        true
    }

    /// Takes waiting entries, up to the maximum of a batch, and merges them by turn.
    fn gather(&mut self) -> BTreeMap<TurnId, Portion> {
        let mut portions = mem::take(&mut self.locked);
        let mut taken = 0;
        while taken < self.config.max_batch_events {
            let Some(entry) = self.held.take().or_else(|| self.entries.try_recv().ok()) else { break };
            let turn = entry.turn();
            // This process handed the turn over and claimed it again; the events of the new epoch go into the
            // next batch.
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

    /// Commits a batch. Returns when each of its turns was written, is fenced, or is locked.
    async fn commit(&mut self, portions: BTreeMap<TurnId, Portion>) {
        let (idle, pending): (Vec<_>, Vec<_>) = portions
            .into_values()
            .partition(|portion| portion.turn.fenced.is_cancelled() || portion.events.is_empty());
        for portion in idle {
            portion.finish();
        }
        if pending.is_empty() {
            return;
        }
        let began = Instant::now();
        match self.write(&pending, Try::First).await {
            Ok(results) => {
                self.commits.record(began.elapsed().as_secs_f64(), &[]);
                failpoint::hit("chat.journal.committed").await;
                for (portion, result) in pending.into_iter().zip(results) {
                    self.close(portion, result);
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = %Chain(&error), turns = pending.len(), "journal batch failed, writing by turn"
                );
                for portion in pending {
                    let result = self.write_until_answered(&portion).await;
                    self.close(portion, result);
                }
            }
        }
    }

    /// Writes one portion until Postgres answers. Meanwhile the queues fill, and workers stop reading their
    /// models. If it takes longer than a lease, another worker takes the turn over, and the portion is
    /// fenced.
    ///
    /// An earlier attempt may have been committed although its answer was lost. The portion must therefore
    /// not change until there is an answer: a locked turn is written again here, not merged into the next
    /// batch.
    async fn write_until_answered(&mut self, portion: &Portion) -> Written {
        loop {
            match self.write(std::slice::from_ref(portion), Try::Again).await {
                Ok(results) => match results.first() {
                    Some(Written::Locked) | None => tokio::time::sleep(LOCKED_PAUSE).await,
                    Some(result) => return *result,
                },
                Err(error) if is_transient(&error) => {
                    tracing::debug!(
                        error = %Chain(&error), turn.id = %portion.turn.turn_id, "journal waits for Postgres"
                    );
                    tokio::time::sleep(self.config.retry_pause).await;
                }
                Err(error) => {
                    // The error is not an outage: the turn cannot be journaled, so its worker must stop.
                    tracing::error!(
                        error = %Chain(&error), turn.id = %portion.turn.turn_id, "events cannot be stored"
                    );
                    return Written::Fenced;
                }
            }
        }
    }

    /// Writes all `portions` with one statement, and finds the reason for each that was not written.
    async fn write(&mut self, portions: &[Portion], which: Try) -> Result<Vec<Written>, pg::Error> {
        let mut batch = Batch::default();
        for portion in portions {
            batch.turns.push(portion.turn.turn_id.0);
            batch.epochs.push(portion.turn.epoch);
            for (seq, event) in portion.numbered() {
                batch.push(portion.turn.turn_id, seq, event.kind(), event.payload());
            }
        }
        // Takes the connection out, so that it is not used again after a failed or unfinished statement.
        let mut db = match self.connection.take() {
            Some(db) => db,
            None => self.pool.acquire().await?,
        };
        let written = match which {
            Try::First => events::append(&mut db, &batch).await?,
            Try::Again => events::append_again(&mut db, &batch).await?,
        };
        let written: HashSet<TurnId> = written.into_iter().collect();
        let mut results = Vec::with_capacity(portions.len());
        for Portion { turn, .. } in portions {
            results.push(if written.contains(&turn.turn_id) {
                Written::Done
            } else if events::is_held(&mut db, turn.turn_id, turn.epoch).await? {
                Written::Locked
            } else {
                Written::Fenced
            });
        }
        self.connection = Some(db);
        Ok(results)
    }

    /// Publishes a written portion, drops a fenced one, keeps a locked one for the next batch.
    fn close(&mut self, portion: Portion, result: Written) {
        match result {
            Written::Done => {
                let stored: Vec<StoredEvent> =
                    portion.numbered().map(|(seq, event)| event.stored(seq)).collect();
                if let Some(last) = stored.last() {
                    portion.turn.last_seq.store(last.seq, Ordering::Release);
                }
                self.hub.publish(portion.turn.turn_id, stored);
                portion.finish();
            }
            Written::Fenced => {
                portion.turn.fenced.cancel();
                portion.finish();
            }
            Written::Locked => {
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

    /// Frees the portion's bytes in the queue, and answers its flushes.
    fn finish(self) {
        drop(self.rooms);
        for done in self.flushes {
            // The worker may have stopped waiting.
            let _gone = done.send(());
        }
    }
}

/// Whether a later attempt may succeed. Only errors about the written rows are permanent; any other error,
/// known or unknown, may be part of an outage.
fn is_transient(error: &pg::Error) -> bool {
    !matches!(error, pg::Error::Conflict { .. } | pg::Error::Inconsistency { .. })
}
