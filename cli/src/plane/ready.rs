//! Whether processes are ready, by what their operators' ports say.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reqwest::Client;
use serde_json::Value;

use super::Plane;

const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

impl Plane {
    /// Waits until every process says that it is ready.
    pub async fn until_ready(&self, within: Duration) -> Result<()> {
        let http = Client::builder().timeout(PATIENCE).build()?;
        let started = Instant::now();
        loop {
            let mut waiting = Vec::new();
            for process in &self.processes {
                if let Err(problem) = ask(&http, &process.operator_url()).await {
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

/// What a process says of itself: ready, or what is missing.
pub async fn ask(http: &Client, operator_url: &str) -> Result<String, String> {
    let answer =
        http.get(format!("{operator_url}/readyz")).send().await.map_err(|_| "does not answer".to_owned())?;
    let ready = answer.status().is_success();
    let body: Value = answer.json().await.map_err(|error| format!("answers nonsense: {error}"))?;
    if ready {
        return Ok("ready".to_owned());
    }
    // A service names the checks that fail; the gateway names the services and how each is.
    let missing = body["missing"].as_object().into_iter().flatten();
    let away = body["services"].as_object().into_iter().flatten().filter(|(_, state)| *state != "serving");
    let parts = missing
        .chain(away)
        .map(|(part, problem)| format!("{part}: {}", problem.as_str().unwrap_or("not ready")));
    Err(format!("not ready ({})", parts.collect::<Vec<_>>().join("; ")))
}
