//! `steward clean`: removes what the development stack kept, and says what.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use steward_stack::{Home, stack::wipe, terminal::say};

use super::{run::end_leftovers, sandboxes};

/// Removes the home, its test home, and everything outside that they noted: directories, and sandboxes on the
/// user's own engine. The sandbox image stays there, as other checkouts use it too.
pub async fn run(root: &Path) -> Result<()> {
    for path in [root.join("test"), root.to_owned()] {
        if !path.is_dir() {
            say(format_args!("{}: nothing there", path.display()))?;
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
    Ok(())
}
