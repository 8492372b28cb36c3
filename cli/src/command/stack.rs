//! `steward stack exec`: runs one command with Postgres, Redis and Docker.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;
use steward_stack::exec::{self, ExecArgs};

/// Run Postgres, Redis and Docker for tests and experiments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: StackCommand,
}

#[derive(Debug, Subcommand)]
enum StackCommand {
    /// Start the servers, run a command with their addresses in its environment, stop them again.
    ///
    /// The command finds STEWARD_DATABASE_URL, STEWARD_REDIS_URL and DOCKER_HOST set. Where one of them is
    /// set already, that server is used as it is and not stopped. The exit code is the command's.
    #[command(after_help = "Example:\n  steward stack exec -- cargo nextest run -p chat-svc")]
    Exec(ExecArgs),
}

pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let StackCommand::Exec(args) = &args.command;
    exec::run(home, args).await
}
