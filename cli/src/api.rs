//! Client of a plane's HTTP API.

pub mod sse;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::{Value, json};
use steward_stack::home::read_if_exists;

use self::sse::Frames;

/// File in a home that contains the URL of its plane.
pub(crate) const URL_FILE: &str = "url";
/// File in a home that contains an account's token.
pub(crate) const TOKEN_FILE: &str = "token";
/// File in a home that contains an operator's token.
pub(crate) const ADMIN_TOKEN_FILE: &str = "admin-token";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time in which a stream may send nothing: three times the 15 s after which the gateway sends a
/// comment.
const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// The plane to call, and the token to call it with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Base URL of the plane; by default the one `steward dev` runs.
    #[arg(long, env = "STEWARD_URL")]
    pub(crate) url: Option<String>,
    /// API token; by default the one `steward dev` made.
    #[arg(long, env = "STEWARD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// Client of one plane: its URL, and a token for its calls.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    url: String,
    token: String,
}

/// A problem document, with which the plane refused a request or reported that it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code}, HTTP {status})")]
pub struct Refusal {
    /// The HTTP status code.
    pub status: u16,
    /// Stable reason, in UPPER_SNAKE.
    pub code: String,
    /// Explanation for a person, with every wrong field.
    pub detail: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl Api {
    /// Builds a client of the plane that the command line names. A URL or token that is not given is read
    /// from `home`, the token from its file `token_file`.
    pub(crate) fn open(home: &Path, target: &Target, token_file: &str) -> Result<Self> {
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

    /// Opens the plane at the base URL `url`.
    pub fn at(url: &str, token: &str) -> Result<Self> {
        let http = Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// Like [`Self::post`], with an idempotency key.
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body).header("idempotency-key", key)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// Opens a stream of events, which begins after the event `last_event_id`. If `last_event_id` is empty,
    /// the stream begins at the first event.
    pub async fn events(&self, path: &str, last_event_id: &str) -> Result<Frames> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        Ok(Frames::of(self.send(request).await?))
    }

    /// Sends JSON and opens a stream of events.
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
            bail!("{} answered {status} without a problem document: it is not a Steward gateway", self.url);
        }
        let problem: Value = answer.json().await.context("read the plane's problem")?;
        Err(Refusal::from_problem(&problem).into())
    }
}

impl Refusal {
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

/// Creates an account and returns its id.
pub async fn create_account(api: &Api, name: &str) -> Result<String> {
    let answer = api.post("/v1/accounts", &json!({ "name": name })).await?;
    Ok(answer["account"]["accountId"].as_str().context("the answer names no account")?.to_owned())
}

/// Creates a token and returns its secret.
pub async fn create_token(
    api: &Api,
    account: &str,
    name: &str,
    scopes: &[String],
    ttl: Option<&str>,
) -> Result<String> {
    let mut body = json!({ "name": name, "scopes": scopes });
    if let Some(ttl) = ttl {
        body["ttl"] = json!(ttl);
    }
    let answer = api.post(&format!("/v1/accounts/{account}/tokens"), &body).await?;
    let secret = answer["secret"].as_str().filter(|secret| !secret.is_empty());
    Ok(secret.context("the answer holds no secret")?.to_owned())
}

fn read(home: &Path, file: &str, alternative: &str) -> Result<String> {
    let path = home.join(file);
    let text = read_if_exists(&path)?;
    let text = text.with_context(|| {
        format!("{} does not exist: start `make dev`, or give {alternative}", path.display())
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_its_code_and_the_wrong_fields() {
        let refusal = Refusal::from_problem(&json!({
            "status": 400, "code": "INVALID_ARGUMENT", "detail": "the request is not valid",
            "retryable": false,
            "errors": [{"field": "input", "detail": "must not be empty"}],
        }));
        assert_eq!(
            refusal.to_string(),
            "the request is not valid; input must not be empty (INVALID_ARGUMENT, HTTP 400)"
        );
    }

    #[test]
    fn without_a_plane_the_error_explains_how_to_start_one() {
        let target = Target { url: None, token: None };
        let error = Api::open(Path::new("/nowhere"), &target, TOKEN_FILE).unwrap_err().to_string();
        assert!(error.contains("make dev") && error.contains("STEWARD_URL"), "{error}");
    }
}
