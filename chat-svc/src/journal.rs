//! The event journal: a turn's events are committed here before clients see them, and replayed from here byte
//! for byte.
//!
//! A worker opens a [`TurnLog`] for the turn that it runs. Two [`writer`] tasks commit the events of all logs
//! of the process, one batch after the other. The [`hub`] passes committed events to the readers of this
//! process, and a hint wakes the readers of other processes. A [`reader`] serves one client, from any cursor,
//! on any replica.
//!
//! The journal guarantees sequence numbers without a gap or a repetition, no visible event before its commit,
//! and no event of a worker after another one claimed its turn.

pub(crate) mod hub;
pub(crate) mod reader;
pub(crate) mod writer;

use std::sync::Arc;

use svc_core::{
    data::{pg::Pool, wake::Wake},
    id::TurnId,
    run::lifecycle::Lifecycle,
};
use tokio_util::sync::CancellationToken;

use self::{hub::Hub, writer::Writer};
pub(crate) use self::{reader::ReadError, writer::Fenced};
pub use self::{reader::Reader, writer::TurnLog};
use crate::domain::{event::StoredEvent, settings::JournalConfig};

/// Writer tasks of a process. With two, one commits while the other prepares its batch; more only make the
/// batches smaller.
const WRITERS: usize = 2;

/// A process's access to the journal; cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    config: Arc<JournalConfig>,
    pool: Pool,
    hub: Hub,
    writers: Arc<[Writer]>,
}

impl Journal {
    pub fn start(config: JournalConfig, pool: Pool, wake: Wake, lifecycle: &Lifecycle) -> Self {
        let hub = Hub::start(config.hub_batches, wake, lifecycle);
        let config = Arc::new(config);
        let writers = (0..WRITERS)
            .map(|_| Writer::start(config.clone(), pool.clone(), hub.clone(), lifecycle))
            .collect::<Vec<_>>()
            .into();
        Self { config, pool, hub, writers }
    }

    /// Opens the log of a turn for the worker that claimed it with `epoch`. `last_seq` is the turn's newest
    /// event, read after the claim was committed. The writer cancels `fenced` when it learns that the turn
    /// was claimed again or is final, or if Postgres refuses the turn's events.
    pub fn open(&self, turn_id: TurnId, epoch: i64, last_seq: i64, fenced: CancellationToken) -> TurnLog {
        let writer = &self.writers[writer_of(turn_id, self.writers.len())];
        TurnLog::new(turn_id, epoch, last_seq, fenced, writer.clone(), self.hub.clone())
    }

    /// Publishes the events that a committed cancel, interruption or erasure added to a turn.
    pub(crate) fn announce(&self, turn_id: TurnId, events: Vec<StoredEvent>) {
        self.hub.publish(turn_id, events);
    }

    /// Returns a reader of the turn's events after `seq`.
    pub fn reader(&self, turn_id: TurnId, seq: i64) -> Reader {
        Reader::new(self.config.clone(), self.pool.clone(), &self.hub, turn_id, seq)
    }
}

/// Returns the index of the writer of all events of a turn.
fn writer_of(turn_id: TurnId, writers: usize) -> usize {
    // The last bytes of a UUIDv7 are random, so they spread the turns over the writers.
    usize::from(turn_id.0.as_bytes()[15]) % writers
}
