//! `steward`: every service as a subcommand, the development stack, and operator commands.
//!
//! It owns what a developer's machine needs to run the plane (packages excepted: `scripts/packages`), and
//! the local copy of the plane that the end-to-end suites start. It holds no business rule and no SQL.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

pub mod args;
pub mod dev;
pub mod terminal;
pub mod traces;

use args::{Args, Command, StackCommand};

/// Parses the command line, runs the command, and reports an error as one line on standard error.
pub fn run() -> ExitCode {
    let args = Args::parse();
    match runtime().and_then(|runtime| runtime.block_on(dispatch(args))) {
        Ok(code) => code,
        Err(error) => {
            terminal::complain(format_args!("steward: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

async fn dispatch(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Stack { command: StackCommand::Exec { fresh, command } } => {
            dev::exec::run(&args.home, fresh, &command).await
        }
        Command::Clean => dev::clean::run(&args.home).await.map(|()| ExitCode::SUCCESS),
    }
}
