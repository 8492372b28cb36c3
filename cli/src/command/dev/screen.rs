//! The text printed at the end of a start: the plane's URL, and commands to paste.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Result;
use steward_stack::{Home, terminal::say};

use crate::api::TOKEN_FILE;

pub(super) fn show(home: &Home, url: &str) -> Result<()> {
    let steward = near(&env::current_exe()?);
    let token = near(&home.path(TOKEN_FILE));
    let program = steward.display();
    say(format_args!(
        "
Steward runs at {url}, its API is at {url}/openapi.json, your token is in {token}.

  Talk to an agent in a sandbox of its own:
    {program} chat 'run uname -a'
  The same with curl:
    {curl}
  Follow a turn through every process (the chat prints its id):
    {program} trace TURN
  Which process is up, with its health and metrics:
    {program} status

Ctrl-C stops everything and keeps the data.",
        token = token.display(),
        curl = curl(url, &token),
    ))?;
    Ok(())
}

fn curl(url: &str, token: &Path) -> String {
    let token = token.display();
    format!(
        "H=\"authorization: Bearer $(cat {token})\"; \
         S=$(curl -s -H \"$H\" --json '{{}}' {url}/v1/sessions \
         | sed 's/.*\"sessionId\":\"\\([^\"]*\\).*/\\1/'); \
         curl -N -H \"$H\" --json '{{\"input\":\"run uname -a\"}}' {url}/v1/sessions/$S/turns:run"
    )
}

/// Returns the path relative to the working directory if it is inside that directory.
fn near(path: &Path) -> PathBuf {
    let here = env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).map(Path::to_owned).ok()).unwrap_or_else(|| path.to_owned())
}
