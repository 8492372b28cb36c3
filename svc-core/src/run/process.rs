//! The steps of every service's `main`: load the configuration, start telemetry, arm fail points, start the
//! service, wait until it stops, flush telemetry.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    error::Chain,
    run::{
        failpoint,
        lifecycle::{Lifecycle, Outcome},
        telemetry::{self, Metrics, TelemetryConfig},
    },
};

/// Exit code if the configuration was refused (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;

/// Settings of a process that every service has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Maximum time from SIGTERM to the end of the process. The last 5 s are reserved for ending tasks by
    /// force and for sending telemetry.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Fail points that tests arm; see [`crate::run::failpoint`].
    pub failpoints: String,
}

/// Time reserved at the end of the grace period: 1 s for tasks that were ended by force, 1 s for each of the
/// three telemetry exporters, 1 s for the runtime.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A configuration from which [`serve`] starts a process.
pub trait Configured: Sized {
    /// The service's name, as `chat-svc`.
    const NAME: &'static str;
    /// Error of a configuration that could not be loaded.
    type Error: std::error::Error;

    /// Loads the configuration: defaults, overridden by `file`, overridden by the environment.
    ///
    /// # Errors
    /// An error if the file does not exist, or one that names the key if a key is unknown, missing or has a
    /// bad value.
    fn load(file: Option<&Path>) -> Result<Self, Self::Error>;

    /// Returns the settings of the process and of its telemetry.
    fn process(&self) -> (ProcessConfig, TelemetryConfig);
}

/// Runs a service: calls [`serve`] with the configuration file that the first command-line argument names, if
/// any. Every service's `main` returns its result.
pub fn main<C, Fut, E>(start: impl FnOnce(C, Lifecycle, Metrics) -> Fut) -> ExitCode
where
    C: Configured,
    Fut: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    serve(std::env::args_os().nth(1).map(PathBuf::from).as_deref(), start)
}

/// Loads the configuration and runs the process with it. Returns [`EXIT_CONFIG`] if the configuration is
/// refused.
pub fn serve<C, Fut, E>(file: Option<&Path>, start: impl FnOnce(C, Lifecycle, Metrics) -> Fut) -> ExitCode
where
    C: Configured,
    Fut: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    match C::load(file) {
        Err(error) => complain(C::NAME, &error, ExitCode::from(EXIT_CONFIG)),
        Ok(config) => {
            let (process, telemetry) = config.process();
            run(C::NAME, &process, &telemetry, |lifecycle, metrics| start(config, lifecycle, metrics))
        }
    }
}

/// Runs the process of `service` until it stops. `start` spawns the service's tasks on the lifecycle and
/// returns.
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
    // Exporters are built inside the runtime, because their channels use it.
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
        // `stopped` is polled before the start, so that a signal also stops a process that is still starting.
        let mut stopped = pin!(lifecycle.run_until_stopped(drain));
        tokio::select! {
            biased;
            outcome = &mut stopped => return outcome,
            started = start(lifecycle.clone(), metrics) => match started {
                Ok(()) => tracing::info!(service, "started"),
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "start failed");
                    complain(service, &error, ExitCode::FAILURE);
                    lifecycle.stop();
                    stopped.await;
                    return Outcome::Failed;
                }
            },
        }
        stopped.await
    });
    tracing::info!(service, ?outcome, "stopped");
    telemetry.shutdown();
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
    }
}

/// Prints `error` with its sources to stderr, also if logging does not work, and returns `code`.
#[expect(clippy::print_stderr, reason = "logging may not be up, and a person started this")]
pub fn complain(service: &str, error: &dyn std::error::Error, code: ExitCode) -> ExitCode {
    eprintln!("{service}: {}", Chain(error));
    code
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;
    use crate::run::telemetry::LogFormat;

    #[test]
    fn a_signal_during_the_start_ends_the_process_cleanly() {
        let process = ProcessConfig { shutdown_grace: Duration::from_secs(6), failpoints: String::new() };
        let telemetry = TelemetryConfig {
            otlp_endpoint: String::new(),
            log_format: LogFormat::Text,
            log_filter: "off".to_owned(),
            sample_ratio: 0.0,
            metrics_period: Duration::from_secs(60),
        };
        let code = run("starting", &process, &telemetry, |_, _| async {
            kill_process(getpid(), Signal::TERM).unwrap();
            std::future::pending::<Result<(), io::Error>>().await
        });
        assert_eq!(code, ExitCode::SUCCESS);
    }
}
