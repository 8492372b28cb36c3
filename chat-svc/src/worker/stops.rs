//! Stops calls of ended turns: see [`crate::app::stops`].

use std::{sync::Arc, time::Duration};

use svc_core::run::{
    lifecycle::{Lifecycle, LoopResult},
    telemetry,
};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::app::stops::CallStops;

/// Maximum concurrent stops per process. It is above the default of `max_running_per_account`: the commands
/// that one account's turns run at a time do not fill every slot, even if their sandboxes do not respond.
const SLOTS: usize = 256;
/// Maximum calls read at a time.
const BATCH: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct StopWorker {
    stops: CallStops,
    slots: Arc<Semaphore>,
    lifecycle: Lifecycle,
}

impl StopWorker {
    pub(crate) fn new(stops: CallStops, lifecycle: Lifecycle) -> Self {
        Self { stops, slots: Arc::new(Semaphore::new(SLOTS)), lifecycle }
    }

    /// Starts the task, which runs every `period`.
    pub(crate) fn start(self, period: Duration) {
        let lifecycle = self.lifecycle.clone();
        lifecycle.every("stops of calls", period, move || {
            let worker = self.clone();
            async move { worker.stop_due().await }
        });
    }

    async fn stop_due(&self) -> LoopResult {
        let free = self.slots.available_permits().min(BATCH);
        let soft = self.lifecycle.soft();
        for stop in self.stops.list_due(free).await? {
            if soft.is_cancelled() {
                return Ok(());
            }
            let Ok(slot) = self.slots.clone().try_acquire_owned() else { return Ok(()) };
            let Some(tries) = self.stops.claim(&stop).await? else { continue };
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
            let (stops, soft) = (self.stops.clone(), soft.clone());
            let work = async move {
                // Stopping this process cuts this attempt short; another replica repeats it once the call is
                // due again.
                let _ended = soft.run_until_cancelled(stops.stop(&stop, tries)).await;
                drop(slot);
            };
            drop(self.lifecycle.spawn("stop of a call", work.instrument(span)));
        }
        Ok(())
    }
}
