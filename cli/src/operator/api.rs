//! The plane's HTTP door, as an operator's commands use it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value;

use super::sse::Frames;

/// File of a home that holds its plane's URL.
pub const URL_FILE: &str = "url";
/// File of a home that holds an account's token.
pub const TOKEN_FILE: &str = "token";
/// File of a home that holds the operator's token.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";

const CONNECT: Duration = Duration::from_secs(5);
/// A stream says something every 15 s, if only a comment.
const SILENCE: Duration = Duration::from_secs(45);

/// Which plane, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Base URL of the plane; by default the one `steward dev` runs.
    #[arg(long, env = "STEWARD_URL")]
    pub url: Option<String>,
    /// API token; by default the one `steward dev` made.
    #[arg(long, env = "STEWARD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A plane that can be called.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    url: String,
    token: String,
}

/// What the plane refused, as its problem document says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code}, HTTP {status})")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable reason, UPPER_SNAKE.
    pub code: String,
    /// What happened.
    pub detail: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl Api {
    /// The plane a command line names, or the home's own, with the token of `token_file`.
    pub fn open(home: &Path, target: &Target, token_file: &str) -> Result<Self> {
        let url = match &target.url {
            Some(url) => url.clone(),
            None => read(home, URL_FILE, "--url or STEWARD_URL")?,
        };
        let token = match &target.token {
            Some(token) => token.clone(),
            None => read(home, token_file, "--token or STEWARD_TOKEN")?,
        };
        Self::at(&url, &token)
    }

    /// The plane at a URL.
    pub fn at(url: &str, token: &str) -> Result<Self> {
        let http = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Sends and reads JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// Sends with a key by which a repetition is known, and reads JSON.
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body).header("idempotency-key", key)).await
    }

    /// Deletes and reads JSON.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// Reads a stream of events; `last_event_id` goes on after an event already seen.
    pub async fn events(&self, path: &str, last_event_id: &str) -> Result<Frames> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        Ok(Frames::of(self.send(request).await?))
    }

    /// Sends JSON and reads a stream of events.
    pub async fn post_events(&self, path: &str, body: &Value) -> Result<Frames> {
        let request = self.request(Method::POST, path).header(ACCEPT, "text/event-stream").json(body);
        Ok(Frames::of(self.send(request).await?))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value> {
        self.send(request).await?.json().await.context("read the plane's answer")
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await.with_context(|| format!("call {}", self.url))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let is_problem = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/problem+json"));
        if !is_problem {
            bail!("{} answered {status}, and not as a Steward gateway does", self.url);
        }
        let problem: Value = answer.json().await.context("read the plane's problem")?;
        Err(Refusal::from_problem(&problem).into())
    }
}

impl Refusal {
    /// Reads a problem document.
    pub fn from_problem(problem: &Value) -> Self {
        let mut detail = problem["detail"].as_str().unwrap_or("refused").to_owned();
        for error in problem["errors"].as_array().into_iter().flatten() {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            detail.push_str(&format!("; {} {}", text("field"), text("detail")));
        }
        Self {
            status: problem["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0),
            code: problem["code"].as_str().unwrap_or("UNKNOWN").to_owned(),
            detail,
            retryable: problem["retryable"].as_bool().unwrap_or(false),
        }
    }
}

fn read(home: &Path, file: &str, otherwise: &str) -> Result<String> {
    let path = home.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{} is not there: start `make dev`, or give {otherwise}", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_its_code_and_the_wrong_fields() {
        let refusal = Refusal::from_problem(&json!({
            "status": 400, "code": "INVALID_ARGUMENT", "detail": "the request is not valid", "retryable": false,
            "errors": [{"field": "input", "detail": "must not be empty"}],
        }));
        assert_eq!(
            refusal.to_string(),
            "the request is not valid; input must not be empty (INVALID_ARGUMENT, HTTP 400)"
        );
    }

    #[test]
    fn without_a_plane_the_message_says_how_to_get_one() {
        let target = Target { url: None, token: None };
        let error = Api::open(Path::new("/nowhere"), &target, TOKEN_FILE).unwrap_err().to_string();
        assert!(error.contains("make dev") && error.contains("STEWARD_URL"), "{error}");
    }
}
