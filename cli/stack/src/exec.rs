//! `steward stack exec`: one command with the servers around it.

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

/// Variable that names one run of suites; installations that begin with its value are removed at the end.
pub const TEST_RUN: &str = "STEWARD_TEST_RUN";

/// The command to run, and on what.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Begin with an empty database cluster.
    #[arg(long)]
    pub fresh: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs a command between the start and the stop of the servers, in `<home>/test`, so that a development
/// stack can run beside it.
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
    // A suite that is killed leaves its containers.
    let swept = stack.engine.remove_installations(|installation| installation.starts_with(&run)).await;
    stack.down().await?;
    swept?;
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
            // A terminal interrupts the child by itself, being of the same process group.
            signal = stops.next() => if signal == Signal::TERM { pass_on(&child, signal)? },
        }
    };
    // A command ended by a signal has no code of its own: shells say 128 + signal, and so do we.
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|n| 128 + n));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

fn pass_on(child: &Child, signal: Signal) -> Result<()> {
    match child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        Some(pid) => kill_process(pid, signal).context("pass the signal on"),
        None => Ok(()),
    }
}
