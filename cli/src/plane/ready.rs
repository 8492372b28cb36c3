//! Asks processes on their operator ports whether they are ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::Client;
use serde_json::Value;

use super::Plane;

const TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

/// Builds an HTTP client for [`check`].
pub(crate) fn client() -> Result<Client> {
    Client::builder().timeout(TIMEOUT).build().context("make an HTTP client")
}

impl Plane {
    /// Waits until every process is ready; fails after the time `within`.
    pub async fn until_ready(&self, within: Duration) -> Result<()> {
        let http = client()?;
        let started = Instant::now();
        loop {
            let mut waiting = Vec::new();
            for process in &self.processes {
                if let Err(problem) = check(&http, &process.operator_url()).await {
                    waiting.push(format!("{} {problem}", process.name));
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if started.elapsed() > within {
                bail!("not ready after {within:?}: {}", waiting.join("; "));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Returns "ready", or an error with the reason why the process is not.
pub(crate) async fn check(http: &Client, operator_url: &str) -> Result<String, String> {
    let answer =
        http.get(format!("{operator_url}/readyz")).send().await.map_err(|_| "does not answer".to_owned())?;
    let ready = answer.status().is_success();
    let body: Value = answer.json().await.map_err(|error| format!("answers without JSON: {error}"))?;
    if ready {
        return Ok("ready".to_owned());
    }
    // A service lists its failed checks under "missing"; the gateway lists the state of each service under
    // "services".
    let missing = body["missing"].as_object().into_iter().flatten();
    let away = body["services"].as_object().into_iter().flatten().filter(|(_, state)| *state != "serving");
    let parts = missing
        .chain(away)
        .map(|(part, problem)| format!("{part}: {}", problem.as_str().unwrap_or("not ready")));
    Err(format!("not ready ({})", parts.collect::<Vec<_>>().join("; ")))
}
