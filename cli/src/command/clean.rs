//! `steward clean`: removes the development stack's data.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use steward_stack::{Home, stack::wipe, terminal::say};

use super::dev::{end_leftovers, sandboxes};

/// Remove the development stack's data, and say what was removed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Removes the stack's home directory, the tests' home inside it, and what both record: directories
/// elsewhere, and sandboxes on the user's own engines. The sandbox image stays, because other checkouts use
/// it too.
pub(crate) async fn run(root: &Path, _: &Args) -> Result<ExitCode> {
    for path in [root.join("test"), root.to_owned()] {
        if !path.is_dir() {
            say(format_args!("{} does not exist", path.display()))?;
            continue;
        }
        let home = Home::open(&path)?;
        end_leftovers(&home).await?;
        match sandboxes::remove(&home).await? {
            0 => {}
            removed => say(format_args!("removed {removed} containers and volumes of sandboxes"))?,
        }
        wipe(&home).await?;
        fs::remove_dir_all(home.root()).with_context(|| format!("remove {}", home.root().display()))?;
        say(format_args!("removed {}", home.root().display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
