//! Stops calls that may still run although their turn was canceled, was interrupted or failed.
//!
//! The turn is final at once, but its command may still run. The transaction that ended the turn marked its
//! calls as due, so any replica may stop them; stopping a call twice changes nothing. The sandbox of an
//! erased session is deleted, and its calls with it; if the erasure is given up, the calls are stopped then.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::pg::{self, Pool, Tx},
    error::{Chain, ErrorKind},
    subject::Subject,
};
use tokio::sync::Semaphore;

use crate::{
    client::sandbox::{CallFailed, Record, Sandboxes},
    domain::tool_call::{DueStop, StopOutcome},
    store::stops,
};

/// Maximum connections that record outcomes at the same time.
const WRITERS: usize = 2;
/// Extra claim time beyond the longest call, in which the outcome is recorded: at most 5 s to get a
/// connection and 5 s to get a lock.
const MARGIN: Duration = Duration::from_secs(10);

/// Use cases of stopping calls; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CallStops {
    pool: Pool,
    sandboxes: Sandboxes,
    writers: Arc<Semaphore>,
}

impl CallStops {
    pub(crate) fn new(pool: Pool, sandboxes: Sandboxes) -> Self {
        Self { pool, sandboxes, writers: Arc::new(Semaphore::new(WRITERS)) }
    }

    /// Lists calls to stop now, at most `limit`.
    pub(crate) async fn list_due(&self, limit: usize) -> Result<Vec<DueStop>, pg::Error> {
        let mut db = self.pool.acquire().await?;
        stops::list_due(&mut db, i64::try_from(limit).unwrap_or(0)).await
    }

    /// Claims the stop of a call. Returns the number of the attempt, or `None` if another process has claimed
    /// it or the session is frozen.
    pub(crate) async fn claim(&self, stop: &DueStop) -> Result<Option<i32>, pg::Error> {
        let held = self.sandboxes.longest_stop() + MARGIN;
        let write = async |tx: &mut Tx| stops::claim(tx, &stop.key, held).await;
        Ok(self.write(stop, write).await?.flatten())
    }

    /// Stops a claimed call and records the outcome.
    pub(crate) async fn stop(&self, stop: &DueStop, tries: i32) {
        let exec_key = stop.key.exec_key(stop.dispatches);
        let answer = self.sandboxes.stop(stop.account_id, stop.sandbox_id, &exec_key).await;
        let outcome = match (conclude(answer), StopOutcome::pause_after(tries)) {
            (Some(outcome), _) => Ok(outcome),
            (None, Some(pause)) => Err(pause),
            (None, None) => Ok(StopOutcome::Unanswered),
        };
        if let Ok(outcome) = outcome {
            tracing::Span::current().record("stop.outcome", tracing::field::debug(outcome));
            tracing::info!(?outcome, tries, "call of an ended turn stopped");
        }
        let Ok(_writer) = self.writers.acquire().await else { return };
        let write = async |tx: &mut Tx| stops::record(tx, &stop.key, tries, outcome).await;
        if let Err(error) = self.write(stop, write).await {
            tracing::warn!(error = %Chain(&error), "outcome of a stop not recorded, it is repeated");
        }
    }

    /// Writes in a transaction of the call's session; `None` if an erasure has frozen the session.
    async fn write<T>(
        &self,
        stop: &DueStop,
        write: impl AsyncFnOnce(&mut Tx) -> Result<T, pg::Error>,
    ) -> Result<Option<T>, pg::Error> {
        let subject = Subject::Session { account: stop.account_id, session: stop.session_id };
        let mut tx = match Tx::for_subject(&self.pool, subject).await {
            Ok(tx) => tx,
            Err(pg::Error::SubjectFrozen(_) | pg::Error::SubjectNotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let written = write(&mut tx).await?;
        tx.commit().await?;
        Ok(Some(written))
    }
}

/// Reads the outcome in sandbox-svc's answer; `None` if it is not known yet.
fn conclude(answer: Result<Record, CallFailed>) -> Option<StopOutcome> {
    match answer {
        Ok(Record::Finished(_)) => Some(StopOutcome::Ended),
        Ok(Record::Abandoned) => Some(StopOutcome::NeverRan),
        Ok(Record::InDoubt) | Err(CallFailed::Refused { kind: ErrorKind::NotFound, .. }) => {
            Some(StopOutcome::InDoubt)
        }
        Ok(Record::Running) => None,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "call of an ended turn not stopped");
            None
        }
    }
}
