//! `steward`: every service as a subcommand, the development stack, and operator commands.
//!
//! It owns what a developer's machine needs to run the plane (packages excepted: `scripts/packages`), and
//! the local copy of the plane that the end-to-end suites start. It holds no business rule and no SQL.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

pub mod args;
pub mod db;
pub mod dev;
pub mod operator;
pub mod plane;
pub mod serve;
pub mod traces;

use args::{Args, Command, StackCommand};

/// Parses the command line, runs the command, and reports an error as one line on standard error.
pub fn run() -> ExitCode {
    let args = Args::parse();
    if let Command::Serve(serve) = &args.command {
        return serve::run(serve);
    }
    match runtime().and_then(|runtime| runtime.block_on(Box::pin(dispatch(args)))) {
        Ok(code) => code,
        Err(error) => {
            steward_stack::terminal::complain(format_args!("steward: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

async fn dispatch(args: Args) -> Result<ExitCode> {
    let home = args.home.as_path();
    match &args.command {
        Command::Serve(serve) => return Ok(serve::run(serve)),
        Command::Dev(dev) => return dev::run::run(home, dev).await,
        Command::Status => return operator::status::run(home).await,
        Command::Stack { command: StackCommand::Exec(exec) } => {
            return steward_stack::exec::run(home, exec).await;
        }
        Command::Chat(chat) => operator::chat::run(home, chat).await?,
        Command::Purge(purge) => operator::purge::run(home, purge).await?,
        Command::Trace(trace) => operator::trace::run(home, trace).await?,
        Command::Token { command } => operator::token::run(home, command).await?,
        Command::Db { command } => db::run(command).await?,
        Command::Clean => dev::clean::run(home).await?,
    }
    Ok(ExitCode::SUCCESS)
}
