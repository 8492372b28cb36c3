//! `steward status`: which parts of the plane are up, as their operators' ports say.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use reqwest::Client;
use steward_stack::terminal::say;

use crate::plane::{Layout, ready::ask};

const PATIENCE: Duration = Duration::from_secs(3);

/// Prints one line a process; fails if one is not ready.
pub async fn run(home: &Path) -> Result<ExitCode> {
    let layout = Layout::read(home).context("no development plane was started here")?;
    let http = Client::builder().timeout(PATIENCE).build()?;
    let mut ready = true;
    for process in &layout.processes {
        let verdict = ask(&http, &process.operator_url).await;
        ready &= verdict.is_ok();
        let text = verdict.unwrap_or_else(|problem| problem);
        say(format_args!("{:<8} {:<28} {text}", process.name, process.operator_url))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
