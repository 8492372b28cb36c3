//! `steward clean`: removes what the development stack kept, and says what.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{home::Home, stack::Stack};
use crate::terminal::{Stages, say};

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

/// Ends leftover processes of a home and removes its database cluster; keys, tokens, ports and the private
/// engine's images stay.
pub async fn wipe(home: &Home) -> Result<()> {
    Stack::end_leftovers(home, Stages::silent()).await?;
    let mut places = home.elsewhere()?;
    places.push(home.path("postgres"));
    for place in places.iter().filter(|place| place.is_dir()) {
        fs::remove_dir_all(place).with_context(|| format!("remove {}", place.display()))?;
    }
    Ok(())
}
