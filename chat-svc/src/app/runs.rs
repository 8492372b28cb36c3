//! Starts and ends runs. A run is the work of one worker on a claimed turn: the worker ends the turn, hands
//! it over, or leaves it to the worker that claims it after the lease expires.

use std::time::{Duration, Instant};

use svc_core::{data::pg::Tx, error::Chain, run::failpoint};
use tokio_util::sync::CancellationToken;

use super::{
    ending::{self, Answer},
    run::{Run, RunError, Runs},
};
use crate::{
    domain::{
        event::TurnEvent,
        turn::{Ending, FailCause, Input, Turn, TurnStatus},
        usage::Usage,
    },
    store::{events, sessions, turns},
};

/// Maximum time to hand a turn over; after it the lease expires by itself.
const HAND_OVER: Duration = Duration::from_secs(5);

impl Runs {
    /// Starts a run of a claimed turn. Its log continues after the turn's newest event, which is read after
    /// the claim was committed.
    pub(crate) async fn open(&self, turn: Turn, fenced: CancellationToken) -> Result<Run, RunError> {
        let mut db = self.pool.acquire().await?;
        let last_seq = events::last_seq(&mut db, turn.id).await?;
        drop(db);
        let log = self.journal.open(turn.id, turn.standing.epoch, last_seq, fenced.clone());
        if last_seq == 0 {
            log.append(TurnEvent::TurnStarted { attempt: turn.standing.attempts }).await?;
        }
        let left = (turn.standing.deadline_at - self.clock.now()).to_std().unwrap_or(Duration::ZERO);
        Ok(Run { deps: self.clone(), turn, log, fenced, deadline: Instant::now() + left })
    }
}

impl Run {
    /// Ends the turn with its answer.
    pub(crate) async fn complete(&self, answer: &Answer) -> Result<(), RunError> {
        self.finish(Ending::Completed, Some(answer), None).await
    }

    /// Ends the turn with an error; its partial answer is kept.
    async fn fail(&self, cause: FailCause, spent: Option<Usage>) -> Result<(), RunError> {
        self.finish(Ending::Failed(cause), None, spent).await
    }

    /// Hands the turn over: another worker may claim it at once.
    async fn release(&self) -> Result<(), RunError> {
        // The next worker reads the shown events, so they must be committed first.
        self.log.flush().await?;
        let mut db = self.deps.pool.acquire().await?;
        if turns::release(&mut db, self.turn.id, self.turn.standing.epoch).await? {
            self.deps.notices.turn_waits(self.turn.id);
        }
        Ok(())
    }

    async fn finish(
        &self,
        ending: Ending,
        answer: Option<&Answer>,
        spent: Option<Usage>,
    ) -> Result<(), RunError> {
        self.log.flush().await?;
        let turn = &self.turn;
        let now = self.deps.clock.now();
        let mut tx = Tx::for_subject(&self.deps.pool, turn.subject()).await?;
        // The lock order is the session's row before the turn's.
        sessions::touch(&mut tx, turn.account_id, turn.session_id, now).await?;
        let locked = turns::lock(&mut tx, turn.account_id, turn.id).await?.ok_or(RunError::Fenced)?;
        let ours =
            locked.standing.status == TurnStatus::Running && locked.standing.epoch == turn.standing.epoch;
        if !ours {
            return Err(RunError::Fenced);
        }
        let ended = ending::end(&mut tx, &locked, Input::End(ending), answer, spent, now).await?;
        failpoint::hit("chat.turn.finishing").await;
        tx.commit().await?;
        self.log.committed(ended.events);
        self.deps.notices.turn_ended(turn.id, ended.next);
        Ok(())
    }
}

/// Ends a run that has no answer. `run` is `None` if the run could not be opened. Returns the outcome for the
/// trace.
pub(crate) async fn leave(run: Option<&Run>, error: RunError) -> &'static str {
    match (error, run) {
        (RunError::Fenced, _) => {
            tracing::info!("another worker runs the turn, or it is final");
            "fenced"
        }
        (RunError::HandOver, Some(run)) => {
            match tokio::time::timeout(HAND_OVER, run.release()).await {
                Ok(Ok(())) => tracing::info!("turn handed over"),
                Ok(Err(error)) => tracing::warn!(?error, "turn not handed over, its lease expires"),
                Err(_) => tracing::warn!("turn not handed over in time, its lease expires"),
            }
            "handed_over"
        }
        (RunError::Failed { cause, spent }, Some(run)) => match run.fail(cause, spent).await {
            Ok(()) => {
                tracing::info!(cause = cause.reason(), "turn failed");
                "failed"
            }
            Err(RunError::Fenced) => "fenced",
            Err(error) => {
                tracing::warn!(?error, cause = cause.reason(), "failure of the turn not stored");
                "left"
            }
        },
        (RunError::Broken(error), _) => {
            tracing::warn!(error = %Chain(&error), "turn left to the next worker");
            "left"
        }
        (RunError::HandOver | RunError::Failed { .. }, None) => "left",
    }
}
