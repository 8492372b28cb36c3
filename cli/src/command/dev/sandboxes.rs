//! Stops and removes the sandboxes of the development plane, which it finds by their label on Docker engines.

use std::fs;

use anyhow::{Context, Result};
use steward_stack::{Engine, Home, docker::INSTALLATION_LABEL, home::read_if_exists};

/// File with the addresses of the user's own engines on which sandboxes were made, one address a line.
const ENGINES: &str = "engines";

/// Returns the label value of this home's sandboxes. It distinguishes them from those of other homes on the
/// same engine.
pub(crate) fn installation(home: &Home) -> Result<String> {
    Ok(format!("dev-{}", home.secret("installation")?.get(..12).unwrap_or_default()))
}

/// Records an engine that is the user's own, so that [`remove`] finds the sandboxes on it.
pub(crate) fn record_engine(home: &Home, engine: &Engine) -> Result<()> {
    let mut hosts = recorded(home)?;
    if hosts.iter().any(|host| host == engine.host()) {
        return Ok(());
    }
    hosts.push(engine.host().to_owned());
    fs::write(home.path(ENGINES), hosts.join("\n")).context("record which Docker engine is used")
}

/// Stops all sandboxes. Their containers and volumes stay for the next start.
pub(crate) async fn stop(home: &Home, engine: &Engine) -> Result<()> {
    let sandboxes = engine.containers(&format!("{INSTALLATION_LABEL}={}", installation(home)?)).await?;
    let running =
        sandboxes.iter().filter(|container| matches!(container.state.as_str(), "running" | "paused"));
    for container in running {
        engine.stop(&container.id).await.with_context(|| format!("stop sandbox {}", container.name))?;
    }
    Ok(())
}

/// Removes the sandboxes and their volumes from every recorded engine. Returns how many containers and
/// volumes it removed.
///
/// # Errors
/// Fails if an engine does not answer, or still has a sandbox or volume. The caller must then keep the home,
/// because only the home records on which engines they are left.
pub(crate) async fn remove(home: &Home) -> Result<usize> {
    let mut removed = 0;
    for host in recorded(home)? {
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

fn recorded(home: &Home) -> Result<Vec<String>> {
    let text = read_if_exists(&home.path(ENGINES))?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}
