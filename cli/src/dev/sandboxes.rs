//! The development plane's sandboxes: whose they are, and what becomes of them on an engine that is not its own.

use std::fs;

use anyhow::{Context, Result};
use steward_stack::{Engine, Home, docker::INSTALLATION_LABEL, home::read_if_there};

/// File with the addresses of the user's own engines that sandboxes were made on, one a line.
const ENGINES: &str = "engines";

/// Says whose sandboxes are whose on an engine that others use too.
pub fn installation(home: &Home) -> Result<String> {
    Ok(format!("dev-{}", home.secret("installation")?.get(..12).unwrap_or_default()))
}

/// Writes down an engine whose data is not in the home, so that [`remove`] finds it.
pub fn note_engine(home: &Home, engine: &Engine) -> Result<()> {
    let mut hosts = noted(home)?;
    if hosts.iter().any(|host| host == engine.host()) {
        return Ok(());
    }
    hosts.push(engine.host().to_owned());
    fs::write(home.path(ENGINES), hosts.join("\n")).context("write down which Docker engine is used")
}

/// Stops all sandboxes; they stay for the next start.
pub async fn stop(home: &Home, engine: &Engine) -> Result<()> {
    let sandboxes = engine.containers(&format!("{INSTALLATION_LABEL}={}", installation(home)?)).await?;
    let running =
        sandboxes.iter().filter(|container| matches!(container.state.as_str(), "running" | "paused"));
    for container in running {
        engine.stop(&container.id).await.with_context(|| format!("stop sandbox {}", container.name))?;
    }
    Ok(())
}

/// Removes all sandboxes and their volumes from every engine that was noted, and returns how many there were of
/// both. An engine that does not answer is an error: with the home would go the knowledge of what is left on it.
pub async fn remove(home: &Home) -> Result<usize> {
    let mut removed = 0;
    for host in noted(home)? {
        let ours = installation(home)?;
        removed += Engine::at(host.clone()).remove_installations(|one| one == ours).await.with_context(|| {
            format!(
                "sandboxes labelled {INSTALLATION_LABEL}={ours} may be left on {host}: start that engine, or \
                 delete {} to leave them there",
                home.path(ENGINES).display()
            )
        })?;
    }
    Ok(removed)
}

fn noted(home: &Home) -> Result<Vec<String>> {
    let text = read_if_there(&home.path(ENGINES))?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}
