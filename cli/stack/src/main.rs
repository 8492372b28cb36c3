//! The program `steward-stack`: runs one command with the servers that it starts, as `steward stack exec`
//! does.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use steward_stack::exec::{self, ExecArgs};

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
    steward_stack::run("steward-stack", exec::run(&args.home, &args.exec))
}
