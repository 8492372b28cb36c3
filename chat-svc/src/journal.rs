//! The event journal: everything a turn shows is committed here before anybody sees it, and replayed from here
//! byte for byte.
//!
//! [`Journal`] is a process's door to it. A worker opens a [`TurnLog`] for the turn it runs; two [`writer`] tasks
//! commit what all logs of the process append, one batch after the other; the [`hub`] hands what was committed
//! to the readers of this process, and a hint wakes those of others; a [`reader`] serves one client, from any
//! cursor, on any replica.
//!
//! It guarantees: sequence numbers without a gap or a repeat; nothing visible before its commit; nothing written
//! by a worker whose epoch was passed. It does not decide what a turn shows.

pub mod hub;
pub mod reader;
pub mod writer;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use svc_core::{
    data::{pg::Pool, wake::Wake},
    id::TurnId,
    run::lifecycle::Lifecycle,
};
use tokio_util::sync::CancellationToken;

use self::{hub::Hub, writer::Writer};
pub use self::{
    reader::{ReadError, Reader},
    writer::{Fenced, TurnLog},
};

/// Writer tasks of a process. Two keep a commit in flight while the other's batch is being made; more only make
/// batches smaller.
const WRITERS: usize = 2;

/// Limits of the journal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalConfig {
    /// Events of one commit at most.
    pub max_batch_events: usize,
    /// Bytes that may wait for their commit, a writer; when they are reached, models are read no further.
    pub max_queued_bytes: usize,
    /// Pause after a commit that failed because the database was away.
    #[serde(with = "humantime_serde")]
    pub retry_pause: Duration,
    /// How often a reader looks by itself while a turn is not final.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// Events that a reader gets at once from the database.
    pub page_events: i64,
    /// Committed batches that wait for a reader of this process before it must read the database again.
    pub hub_batches: usize,
    /// A client that takes no event for this long is cut loose; it resumes by cursor.
    #[serde(with = "humantime_serde")]
    pub slow_reader: Duration,
}

/// A process's door to the journal.
#[derive(Debug, Clone)]
pub struct Journal {
    config: Arc<JournalConfig>,
    pool: Pool,
    hub: Hub,
    writers: Arc<[Writer]>,
}

impl Journal {
    /// Starts the writers.
    #[must_use]
    pub fn start(config: JournalConfig, pool: Pool, wake: Wake, lifecycle: &Lifecycle) -> Self {
        let hub = Hub::start(config.hub_batches, wake, lifecycle);
        let config = Arc::new(config);
        let writers = (0..WRITERS)
            .map(|_| Writer::start(config.clone(), pool.clone(), hub.clone(), lifecycle))
            .collect::<Vec<_>>()
            .into();
        Self { config, pool, hub, writers }
    }

    /// Opens the log of a turn that `epoch` runs, after its newest event at `last_seq`, which was read after the
    /// claim was committed. `fenced` fires as soon as the writer learns that the epoch was passed.
    #[must_use]
    pub fn open(&self, turn_id: TurnId, epoch: i64, last_seq: i64, fenced: CancellationToken) -> TurnLog {
        let writer = &self.writers[writer_of(turn_id, self.writers.len())];
        TurnLog::new(turn_id, epoch, last_seq, fenced, writer.clone(), self.hub.clone())
    }

    /// Tells readers what a transaction, once committed, added to a turn that no worker of this process runs.
    pub fn announce(&self, turn_id: TurnId, events: Vec<crate::domain::event::StoredEvent>) {
        self.hub.publish(turn_id, events);
    }

    /// A reader of the turn from after `seq` on.
    #[must_use]
    pub fn reader(&self, turn_id: TurnId, seq: i64) -> Reader {
        Reader::new(self.config.clone(), self.pool.clone(), &self.hub, turn_id, seq)
    }
}

/// The same writer for every event of a turn, whoever asks.
fn writer_of(turn_id: TurnId, writers: usize) -> usize {
    // A UUIDv7's last bytes are random.
    usize::from(turn_id.0.as_bytes()[15]) % writers
}
