//! What every service's `main` does, in order: telemetry, fail points, start, wait for the end, flush.

use std::{future::Future, process::ExitCode, time::Duration};

use serde::Deserialize;

use crate::{
    run::{
        failpoint,
        lifecycle::{Lifecycle, Outcome},
        telemetry::{self, Metrics, TelemetryConfig},
    },
    wire::error::Chain,
};

/// Exit code for a configuration that was refused (sysexits' `EX_USAGE`).
pub const EXIT_CONFIG: u8 = 64;

/// How a process runs, whatever it serves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Longest time from SIGTERM to the end of the process; the last 5 s of it belong to what is ended by force, and
    /// to telemetry.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Fail points to arm, for tests; see [`crate::run::failpoint`].
    pub failpoints: String,
}

/// What is left of the grace for the end itself: a second for what hears that it is ended by force, one for each kind
/// of telemetry, one for the runtime.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs the process called `service`: `start` spawns its tasks on the lifecycle and returns.
pub fn run<F, Fut, E>(
    service: &'static str,
    process: &ProcessConfig,
    telemetry: &TelemetryConfig,
    start: F,
) -> ExitCode
where
    F: FnOnce(Lifecycle, Metrics) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(service, &error, ExitCode::FAILURE),
    };
    // Exporters are built inside the runtime: their channels belong to it.
    let telemetry = {
        let _inside = runtime.enter();
        match telemetry::init(service, telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => return complain(service, &error, ExitCode::from(EXIT_CONFIG)),
        }
    };
    if let Err(error) = failpoint::arm(&process.failpoints) {
        return complain(service, &error, ExitCode::from(EXIT_CONFIG));
    }
    let lifecycle = Lifecycle::new();
    let drain = process.shutdown_grace.saturating_sub(LAST_WORDS);
    let metrics = telemetry.metrics();
    let outcome = runtime.block_on(async {
        match start(lifecycle.clone(), metrics).await {
            Ok(()) => tracing::info!(service, "started"),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "start failed");
                complain(service, &error, ExitCode::FAILURE);
                lifecycle.stop();
                lifecycle.run_until_stopped(drain).await;
                return Outcome::Failed;
            }
        }
        lifecycle.run_until_stopped(drain).await
    });
    tracing::info!(service, ?outcome, "stopped");
    telemetry.shutdown();
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
    }
}

/// Says why there is no service, where a person looks first.
#[expect(clippy::print_stderr, reason = "logging may not be up, and a person started this")]
pub fn complain(service: &str, error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    eprintln!("{service}: {}", Chain(error));
    code
}
