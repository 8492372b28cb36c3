//! The servers that Steward uses, for development and tests: Postgres, Redis and a Docker engine.
//!
//! If environment variables name the user's own servers, the stack uses those. Otherwise it starts private
//! ones, with their data in one directory, and stops them at the end. The crate does not depend on Steward's
//! services, so that it builds when they do not: `make sqlx` needs a Postgres before the services compile.

use std::process::ExitCode;

use anyhow::Context;

pub mod docker;
pub mod exec;
pub mod home;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod signals;
pub mod stack;
pub mod terminal;
mod user;

pub use self::{docker::Engine, home::Home, process::Daemon, signals::StopRequests, stack::Stack};

/// Runs a command of `program` on a runtime of its own, and reports an error as one line on standard error.
pub fn run(program: &str, command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(command));
    ended.unwrap_or_else(|error| {
        terminal::complain(format_args!("{program}: {error:#}"));
        ExitCode::FAILURE
    })
}
