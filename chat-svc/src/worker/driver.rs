//! Drives one claimed turn: opens its run, lets the backend find the answer, and ends, hands over or leaves
//! the turn.
//!
//! Every driver of a turn, on any replica, works in a span of the trace that the turn's row names.

use std::sync::Arc;

use svc_core::run::{failpoint, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    app::{run::Runs, running::RunningTurns, runs::leave},
    backend::TurnBackend,
    domain::turn::{self, Turn},
};

/// Drives turns; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub runs: Runs,
    pub backend: Arc<dyn TurnBackend>,
    /// Maximum consecutive claims of a turn without progress; the next claim fails it as POISONED.
    pub max_no_progress: i32,
}

impl Driver {
    /// Drives a turn that was just claimed.
    pub(crate) async fn drive(&self, turn: Turn, running: &RunningTurns) {
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
        let _registration = running.register(turn.id, turn.standing.epoch, fenced.clone());
        let outcome = self.run(turn, fenced).instrument(span.clone()).await;
        span.record("turn.outcome", outcome);
    }

    async fn run(&self, turn: Turn, fenced: CancellationToken) -> &'static str {
        failpoint::hit("chat.turn.claimed").await;
        let run = match self.runs.open(turn, fenced).await {
            Ok(run) => run,
            Err(error) => return leave(None, error).await,
        };
        let answered = async {
            let now = self.runs.clock.now();
            if let Some(cause) = turn::refuse_claim(&run.turn().standing, self.max_no_progress, now) {
                return Err(cause.into());
            }
            let answer = self.backend.run(&run).await?;
            run.complete(&answer).await
        };
        match answered.await {
            Ok(()) => "completed",
            Err(error) => leave(Some(&run), error).await,
        }
    }
}
