//! `steward clean`: removes what the development stack kept, and says what.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use steward_stack::{Home, stack::wipe, terminal::say};

/// Removes the home, its test home, and every place outside that they noted.
pub async fn run(root: &Path) -> Result<()> {
    for path in [root.join("test"), root.to_owned()] {
        if !path.is_dir() {
            say(format_args!("{}: nothing there", path.display()))?;
            continue;
        }
        let home = Home::open(&path)?;
        wipe(&home).await?;
        fs::remove_dir_all(home.root()).with_context(|| format!("remove {}", home.root().display()))?;
        say(format_args!("removed {}", home.root().display()))?;
    }
    Ok(())
}
