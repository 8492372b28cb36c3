//! The program `steward-stack`: runs one command with the servers that it starts, as `steward stack exec`
//! does.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use steward_stack::{exec, exec::ExecArgs, terminal};

/// Starts Postgres, Redis and a Docker engine, runs a command with their addresses, stops them again.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Directory for the servers' data.
    #[arg(long, env = "STEWARD_HOME", default_value = ".steward")]
    home: PathBuf,
    #[command(flatten)]
    exec: ExecArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    run(&args).unwrap_or_else(|error| {
        terminal::complain(format_args!("steward-stack: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(exec::run(&args.home, &args.exec))
}
