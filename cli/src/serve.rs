//! `steward serve`: one service in this process, exactly as its own program runs it.

use std::{fs::File, os::fd::AsFd, path::PathBuf, process::ExitCode};

use clap::Args;
use svc_core::run::{lifecycle::Lifecycle, process};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::plane::Service;

/// Which service, and how.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The service.
    pub service: Service,
    /// Its configuration; keys it leaves out have their defaults, and `STEWARD_<SERVICE>_<KEY>` overrides both.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Stop when standard input closes: a supervisor that is killed leaves nothing running.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Loads a service's configuration and runs it to its end.
macro_rules! serve {
    ($service:ident::$start:ident, $args:expr) => {{
        let name = $args.service.full_name();
        match $service::Config::load($args.config.as_deref()) {
            Err(error) => process::complain(name, &error, ExitCode::from(process::EXIT_CONFIG)),
            Ok(config) => {
                let (how, telemetry) = (config.process.clone(), config.telemetry.clone());
                process::run(name, &how, &telemetry, |lifecycle, metrics| {
                    if $args.until_stdin_closes {
                        hang_on_stdin(&lifecycle);
                    }
                    $service::$start(config, lifecycle, metrics)
                })
            }
        }
    }};
}

/// Runs the service until it is told to stop.
pub fn run(args: &ServeArgs) -> ExitCode {
    match args.service {
        Service::Gateway => serve!(gateway::run, args),
        Service::Chat => serve!(chat_svc::start, args),
        Service::Sandbox => serve!(sandbox_svc::start, args),
        Service::Registry => serve!(registry_svc::start, args),
        Service::Purge => serve!(purge_svc::start, args),
    }
}

/// Stops the process once nobody holds the other end of its standard input.
fn hang_on_stdin(lifecycle: &Lifecycle) {
    let (stopping, soft) = (lifecycle.clone(), lifecycle.soft());
    drop(lifecycle.spawn("lifeline", async move {
        let closed = async {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
            let mut stdin = pipe::Receiver::from_file(File::from(stdin))?;
            let mut ignored = [0; 64];
            while stdin.read(&mut ignored).await? > 0 {}
            std::io::Result::Ok(())
        };
        tokio::select! {
            ended = closed => match ended {
                Ok(()) => tracing::info!("the supervisor is gone, stopping"),
                Err(error) => tracing::error!(%error, "standard input is no pipe to a supervisor, stopping"),
            },
            () = soft.cancelled() => {}
        }
        stopping.stop();
    }));
}
