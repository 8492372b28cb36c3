//! `steward status`: asks each process of the development plane whether it is ready.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use steward_stack::terminal::say;

use crate::plane::{
    Layout,
    ready::{check, client},
};

/// Show which processes of the development plane are ready.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints one line for each process. The exit code is a failure if one is not ready.
pub(crate) async fn run(home: &Path, _: &Args) -> Result<ExitCode> {
    let layout = Layout::read(home).context("no development plane was started here")?;
    let http = client()?;
    let mut ready = true;
    for process in &layout.processes {
        let state = check(&http, &process.operator_url).await;
        ready &= state.is_ok();
        let text = state.unwrap_or_else(|problem| problem);
        say(format_args!("{:<8} {:<28} {text}", process.name, process.operator_url))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
