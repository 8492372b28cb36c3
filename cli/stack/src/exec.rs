//! `steward stack exec`: starts the servers, runs one command, stops the servers.

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{
    home::Home,
    signals::StopRequests,
    stack::{self, Stack},
    terminal::Stages,
};

/// Variable with the name of one test run. When the run ends, every sandbox with a label that begins with
/// this name is removed.
pub const TEST_RUN: &str = "STEWARD_TEST_RUN";

#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Begin with an empty database cluster.
    #[arg(long)]
    pub fresh: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs a command on servers with their data in `<home>/test`, so that a development stack can run at the
/// same time.
pub async fn run(home: &Path, args: &ExecArgs) -> Result<ExitCode> {
    let mut stops = StopRequests::listen()?;
    let home = Home::open(&home.join("test"))?;
    if args.fresh {
        stack::wipe(&home).await?;
    }
    let stack = tokio::select! {
        stack = Stack::up(&home, Stages::silent()) => stack?,
        _ = stops.next() => {
            Stack::end_leftovers(&home, Stages::silent()).await?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let run = format!("test-{}", std::process::id());
    let result = run_inside(&stack, &run, &args.command, &mut stops).await;
    // A test process that was killed has not removed its containers.
    let ours = format!("{run}-");
    let removed = stack.engine.remove_installations(|installation| installation.starts_with(&ours)).await;
    stack.down().await?;
    removed?;
    result
}

async fn run_inside(
    stack: &Stack,
    run: &str,
    command: &[OsString],
    stops: &mut StopRequests,
) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(stack.environment())
        .env(TEST_RUN, run)
        .spawn()
        .with_context(|| format!("run {}", program.display()))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            // Forwards only SIGTERM. On Ctrl-C the terminal sends SIGINT to the child too, because the child
            // is in the same process group.
            signal = stops.next() => if signal == Signal::TERM { forward(&child, signal)? },
        }
    };
    // A command that a signal ended has no exit code; 128 + signal is what shells return.
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|n| 128 + n));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

fn forward(child: &Child, signal: Signal) -> Result<()> {
    match child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        Some(pid) => kill_process(pid, signal).context("forward the signal"),
        None => Ok(()),
    }
}
