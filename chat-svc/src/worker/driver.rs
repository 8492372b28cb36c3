//! Drives one claimed turn: opens its log, runs its loop, and ends, hands over or leaves it.
//!
//! Every driver of a turn, on whatever replica, works in a span of the trace that the turn's row names.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::pg::Pool,
    run::{clock::SharedClock, failpoint, lifecycle::Lifecycle, telemetry},
    wire::error::Chain,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::leases::InHand;
use crate::{
    app::{
        notice::Notices,
        run::{Run, Signals, Stop},
    },
    backend::TurnBackend,
    domain::{event::TurnEvent, turn},
    journal::Journal,
    store::{events, turns::Turn},
};

/// Longest time for handing a turn over: after it the lease runs out by itself.
const HAND_OVER: Duration = Duration::from_secs(5);

/// What every driver works with.
#[derive(Debug, Clone)]
pub struct Driver {
    pool: Pool,
    clock: SharedClock,
    journal: Journal,
    notices: Notices,
    backend: Arc<dyn TurnBackend>,
    max_barren_claims: i32,
    stopping: CancellationToken,
}

impl Driver {
    /// Drivers that run turns in `backend`.
    #[must_use]
    pub fn new(
        pool: Pool,
        clock: SharedClock,
        journal: Journal,
        notices: Notices,
        backend: Arc<dyn TurnBackend>,
        max_barren_claims: i32,
        lifecycle: &Lifecycle,
    ) -> Self {
        let stopping = lifecycle.soft();
        Self { pool, clock, journal, notices, backend, max_barren_claims, stopping }
    }

    /// Drives a turn that was just claimed.
    pub async fn drive(&self, turn: Turn, in_hand: &InHand) {
        let span = tracing::info_span!(
            "turn.run",
            otel.name = "turn.run",
            otel.kind = "internal",
            turn.id = %turn.id,
            session.id = %turn.session_id,
            gen_ai.conversation.id = %turn.session_id,
            turn.epoch = turn.standing.epoch,
            turn.attempt = turn.standing.attempts,
            turn.outcome = tracing::field::Empty,
        );
        telemetry::follow(&span, turn.traceparent.as_deref());
        let fenced = CancellationToken::new();
        let _grip = in_hand.take(turn.id, turn.standing.epoch, fenced.clone());
        let outcome = self.run(turn, fenced).instrument(span.clone()).await;
        span.record("turn.outcome", outcome);
    }

    async fn run(&self, turn: Turn, fenced: CancellationToken) -> &'static str {
        failpoint::hit("chat.turn.claimed").await;
        let run = match self.take(turn, fenced).await {
            Ok(run) => run,
            Err(stop) => return self.leave(None, stop).await,
        };
        let answered = async {
            if let Some(cause) =
                turn::refuse_claim(&run.turn().standing, self.max_barren_claims, self.clock.now())
            {
                return Err(cause.into());
            }
            let answer = self.backend.run(&run).await?;
            run.complete(&answer).await
        };
        match answered.await {
            Ok(()) => "completed",
            Err(stop) => self.leave(Some(&run), stop).await,
        }
    }

    /// Opens the turn's log after its newest event, which is read now that the claim is committed.
    async fn take(&self, turn: Turn, fenced: CancellationToken) -> Result<Run, Stop> {
        let mut db = self.pool.acquire().await?;
        let last_seq = events::last_seq(&mut db, turn.id).await?;
        drop(db);
        let log = self.journal.open(turn.id, turn.standing.epoch, last_seq, fenced.clone());
        if last_seq == 0 {
            log.append(TurnEvent::TurnStarted { attempt: turn.standing.attempts }).await?;
        }
        let signals = Signals { fenced, stopping: self.stopping.clone() };
        Ok(Run::new(turn, log, self.pool.clone(), self.clock.clone(), self.notices.clone(), signals))
    }

    /// Does with a turn that got no answer what its reason asks for.
    async fn leave(&self, run: Option<&Run>, stop: Stop) -> &'static str {
        match (stop, run) {
            (Stop::Fenced, _) => {
                tracing::info!("the turn is somebody else's now, or final");
                "fenced"
            }
            (Stop::HandOver, Some(run)) => {
                match tokio::time::timeout(HAND_OVER, run.release()).await {
                    Ok(Ok(())) => tracing::info!("turn handed over"),
                    Ok(Err(stop)) => tracing::warn!(?stop, "turn not handed over, its lease runs out"),
                    Err(_) => tracing::warn!("handing over took too long, the lease runs out"),
                }
                "handed_over"
            }
            (Stop::Failed { cause, spent }, Some(run)) => match run.fail(cause, spent).await {
                Ok(()) => {
                    tracing::info!(cause = cause.reason(), "turn failed");
                    "failed"
                }
                Err(Stop::Fenced) => "fenced",
                Err(stop) => {
                    tracing::warn!(?stop, cause = cause.reason(), "the turn's failure could not be stored");
                    "left"
                }
            },
            (Stop::Broken(error), _) => {
                tracing::warn!(error = %Chain(&error), "turn left to the next worker");
                "left"
            }
            (Stop::HandOver | Stop::Failed { .. }, None) => "left",
        }
    }
}
