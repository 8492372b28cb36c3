//! Tells sandboxes to stop what still runs of turns that have ended: canceled, interrupted or failed.
//!
//! The turn is final at once; its command is not. The transaction that ended the turn wanted it stopped, so whatever
//! process is left does it. To be told twice changes nothing. What an erasure ended goes with its sandbox; if it is
//! called back, that is stopped too.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::pg::{self, Pool, Tx},
    run::{
        lifecycle::{Lifecycle, LoopResult},
        telemetry,
    },
    wire::error::{Chain, ErrorKind},
};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{
    client::sandbox::{CallFailed, Record, Sandboxes},
    domain::tool_call::CallStop,
    store::stops::{self, DueStop},
};

/// Calls that one process stops at the same time: more than one account has turns, so that the sandboxes of one that
/// do not answer never take all of it.
const SLOTS: usize = 256;
/// Calls taken in one look.
const BATCH: usize = 64;
/// Connections for notes of what came of it.
const WRITERS: usize = 2;
/// What whoever took a call has beyond the longest answer, to note it: a connection and a lock take 5 s at most each.
const MARGIN: Duration = Duration::from_secs(10);

/// The task and what it works with.
#[derive(Debug, Clone)]
pub struct Stops {
    pool: Pool,
    sandboxes: Sandboxes,
    slots: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    lifecycle: Lifecycle,
}

impl Stops {
    /// Stops calls in these sandboxes.
    #[must_use]
    pub fn new(pool: Pool, sandboxes: Sandboxes, lifecycle: Lifecycle) -> Self {
        let (slots, writers) = (Arc::new(Semaphore::new(SLOTS)), Arc::new(Semaphore::new(WRITERS)));
        Self { pool, sandboxes, slots, writers, lifecycle }
    }

    /// Starts the task, which looks every `period`.
    pub fn start(self, period: Duration) {
        let lifecycle = self.lifecycle.clone();
        lifecycle.every("stops of calls", period, move || {
            let stops = self.clone();
            async move { stops.look().await }
        });
    }

    async fn look(&self) -> LoopResult {
        let free = self.slots.available_permits().min(BATCH);
        let mut db = self.pool.acquire().await?;
        let due = stops::list_due(&mut db, i64::try_from(free).unwrap_or(0)).await?;
        drop(db);
        let held = self.sandboxes.longest_stop() + MARGIN;
        let soft = self.lifecycle.soft();
        for stop in due {
            if soft.is_cancelled() {
                return Ok(());
            }
            let Ok(slot) = self.slots.clone().try_acquire_owned() else { return Ok(()) };
            let write = async |tx: &mut Tx| stops::take(tx, &stop.key, held).await;
            let Some(tries) = self.note(&stop, write).await?.flatten() else { continue };
            let span = tracing::info_span!(
                "turn.stop_call",
                otel.name = "turn.stop_call",
                otel.kind = "internal",
                turn.id = %stop.key.turn_id,
                turn.step = stop.key.step,
                stop.tries = tries,
                stop.outcome = tracing::field::Empty,
            );
            telemetry::follow(&span, stop.traceparent.as_deref());
            let (stops, soft) = (self.clone(), soft.clone());
            let work = async move {
                // A process that ends leaves what it took to the others, once that is due again.
                let _ended = soft.run_until_cancelled(stops.stop(&stop, tries)).await;
                drop(slot);
            };
            drop(self.lifecycle.spawn("stop of a call", work.instrument(span)));
        }
        Ok(())
    }

    async fn stop(&self, stop: &DueStop, tries: i32) {
        let exec_key = stop.key.exec_key(stop.dispatches);
        let told = self.sandboxes.stop(stop.account_id, stop.sandbox_id, &exec_key).await;
        let outcome = match (conclude(told), CallStop::pause_after(tries)) {
            (Some(stop), _) => Ok(stop),
            (None, Some(pause)) => Err(pause),
            (None, None) => Ok(CallStop::Unanswered),
        };
        if let Ok(outcome) = outcome {
            tracing::Span::current().record("stop.outcome", tracing::field::debug(outcome));
            tracing::info!(?outcome, tries, "a call of an ended turn was told to stop");
        }
        let Ok(_writer) = self.writers.acquire().await else { return };
        let write = async |tx: &mut Tx| stops::settle(tx, &stop.key, tries, outcome).await;
        if let Err(error) = self.note(stop, write).await {
            tracing::warn!(error = %Chain(&error), "what came of stopping a call is not noted, it is told again");
        }
    }

    /// Writes while the session is nobody else's; `None` if an erasure has it.
    async fn note<T>(
        &self,
        stop: &DueStop,
        write: impl AsyncFnOnce(&mut Tx) -> Result<T, pg::Error>,
    ) -> Result<Option<T>, pg::Error> {
        let mut tx = match Tx::for_subject(&self.pool, stop.subject()).await {
            Ok(tx) => tx,
            Err(pg::Error::SubjectFrozen(_) | pg::Error::SubjectNotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let written = write(&mut tx).await?;
        tx.commit().await?;
        Ok(Some(written))
    }
}

/// What an answer says; `None` if that is not known yet.
fn conclude(told: Result<Record, CallFailed>) -> Option<CallStop> {
    match told {
        Ok(Record::Finished(_)) => Some(CallStop::Ended),
        Ok(Record::Abandoned) => Some(CallStop::NeverRan),
        Ok(Record::InDoubt) | Err(CallFailed::Refused { kind: ErrorKind::NotFound, .. }) => {
            Some(CallStop::InDoubt)
        }
        Ok(Record::Running) => None,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "a call could not be told to stop");
            None
        }
    }
}
