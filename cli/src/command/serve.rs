//! `steward serve`: runs one service in this process, exactly as its own program runs it.

use std::{fs::File, os::fd::AsFd, path::PathBuf, process::ExitCode};

use svc_core::run::{
    lifecycle::Lifecycle,
    process::{self, Configured},
    telemetry::Metrics,
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::plane::Service;

/// Run one service, as its own program does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service.
    service: Service,
    /// Configuration file; missing keys have their defaults, and `STEWARD_<SERVICE>_<KEY>` overrides both.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Stop when standard input closes, so that a supervisor that is killed leaves nothing running.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Runs the service until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> ExitCode {
    match args.service {
        Service::Gateway => serve(args, gateway::start),
        Service::Chat => serve(args, chat_svc::start),
        Service::Sandbox => serve(args, sandbox_svc::start),
        Service::Registry => serve(args, registry_svc::start),
        Service::Purge => serve(args, purge_svc::start),
    }
}

/// Runs the service that `start` starts, with the configuration file of `args`.
fn serve<C, Fut, E>(args: &Args, start: impl FnOnce(C, Lifecycle, Metrics) -> Fut) -> ExitCode
where
    C: Configured,
    Fut: Future<Output = Result<(), E>>,
    E: std::error::Error + 'static,
{
    process::serve(args.config.as_deref(), |config, lifecycle, metrics| {
        if args.until_stdin_closes {
            stop_with_stdin(&lifecycle);
        }
        start(config, lifecycle, metrics)
    })
}

/// Stops the process when its standard input closes.
fn stop_with_stdin(lifecycle: &Lifecycle) {
    let (stopping, soft) = (lifecycle.clone(), lifecycle.soft());
    drop(lifecycle.spawn("stdin", async move {
        let closed = async {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            let mut stdin = pipe::Receiver::from_file(File::from(stdin))?;
            let mut ignored = [0; 64];
            while stdin.read(&mut ignored).await? > 0 {}
            std::io::Result::Ok(())
        };
        tokio::select! {
            ended = closed => match ended {
                Ok(()) => tracing::info!("standard input closed: the supervisor is gone, stopping"),
                Err(error) => tracing::error!(%error, "standard input is not a pipe, stopping"),
            },
            () = soft.cancelled() => {}
        }
        stopping.stop();
    }));
}
