//! Any endpoint that speaks OpenAI's Chat Completions: OpenAI itself, gateways, vLLM, llama.cpp and the like.
//!
//! One call is one streaming POST. Nothing is retried, no redirect is followed, and what the upstream sends is
//! bounded (an event, an error body, the time between bytes). What it says about an error stays with operators
//! ([`super::model_client::Detail`]); the key never shows up anywhere. The stream is decoded without I/O in
//! [`decode`], requests are built in [`request`], refusals classified in [`refusal`].

mod decode;
mod refusal;
mod request;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use reqwest::{
    Client, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use svc_core::run::telemetry;
use tracing::Span;
use url::Url;

use super::{
    model_client::{MAX_DETAIL_BYTES, ModelClient, ModelError, ModelRequest, ModelStream},
    sse::SseDecoder,
};
use decode::Decoder;

/// How long a finished message's usage and the stream's end are waited for.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the body of an error is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach an endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiConfig {
    /// Where it is, version included, as `https://api.openai.com/v1`.
    pub base_url: Url,
    /// Its key; some local servers want none.
    #[serde(default)]
    pub api_key: Option<SecretString>,
    /// Who it is in telemetry.
    #[serde(default = "default_provider")]
    pub provider: String,
    /// Proxy to go through. The environment's is not used: where prompts go is said here or nowhere.
    #[serde(default)]
    pub proxy: Option<Url>,
    /// Time limits.
    #[serde(default)]
    pub timeouts: Timeouts,
}

fn default_provider() -> String {
    "openai".to_owned()
}

/// How long each part of a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To connect.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// From the request to the head of the answer.
    #[serde(with = "humantime_serde")]
    pub first_byte: Duration,
    /// Between bytes of the answer.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), first_byte: seconds(60), idle: seconds(120) }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL is not one to call.
    #[error("base_url must be http or https, with a host and without credentials, query or fragment")]
    BaseUrl,
    /// The key cannot be sent.
    #[error("api_key must be printable ASCII")]
    ApiKey,
    /// The HTTP client cannot be made.
    #[error("HTTP client cannot be made")]
    Http(#[source] reqwest::Error),
}

/// A client of one endpoint.
pub struct OpenAi {
    http: Client,
    /// Without a slash at its end.
    endpoint: String,
    provider: String,
    headers: HeaderMap,
    timeouts: Timeouts,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl OpenAi {
    /// A client of the endpoint; nothing is called yet.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration cannot work.
    pub fn new(config: &OpenAiConfig) -> Result<Self, ConfigError> {
        let url = &config.base_url;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain {
            return Err(ConfigError::BaseUrl);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(key) = &config.api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| ConfigError::ApiKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut http = Client::builder()
            .user_agent(concat!("steward/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(config.timeouts.connect)
            .no_proxy();
        if let Some(proxy) = &config.proxy {
            http = http.proxy(reqwest::Proxy::all(proxy.clone()).map_err(ConfigError::Http)?);
        }
        Ok(Self {
            http: http.build().map_err(ConfigError::Http)?,
            endpoint: url.as_str().trim_end_matches('/').to_owned(),
            provider: config.provider.clone(),
            headers,
            timeouts: config.timeouts,
        })
    }
}

#[async_trait]
impl ModelClient for OpenAi {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn provider(&self) -> &str {
        &self.provider
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let mut headers = self.headers.clone();
        telemetry::inject(&Span::current(), &mut headers);
        let sent = self
            .http
            .post(format!("{}/chat/completions", self.endpoint))
            .headers(headers)
            .json(&request::body(&request))
            .send();
        let after = self.timeouts.first_byte;
        let response = match tokio::time::timeout(after, sent).await {
            Err(_) => return Err(ModelError::NoAnswer { after }),
            Ok(Err(error)) => return Err(ModelError::Unreachable { source: without_url(error) }),
            Ok(Ok(response)) => response,
        };
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        if !is_event_stream(&response) {
            return Err(not_a_stream(response).await);
        }
        Ok(events(response, self.timeouts.idle))
    }
}

/// The events of an answer whose head was good.
fn events(response: Response, idle: Duration) -> ModelStream {
    let mut bytes = response.bytes_stream();
    async_stream::try_stream! {
        let mut sse = SseDecoder::default();
        let mut decoder = Decoder::default();
        loop {
            let patience = if decoder.is_finished() { TAIL_TIMEOUT.min(idle) } else { idle };
            let chunk = match tokio::time::timeout(patience, bytes.next()).await {
                Err(_) => Err(ModelError::Stalled { idle }),
                Ok(Some(Err(error))) => Err(ModelError::Cut { source: Some(without_url(error)) }),
                Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
                Ok(None) => Ok(None),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                // A message that is finished needs nothing more from its connection.
                Ok(None) => break,
                Err(_) if decoder.is_finished() => break,
                Err(error) => Err(error)?,
            };
            // Frames before the fault count, so it is told last.
            let fault = sse.push(&chunk).err();
            while let Some(frame) = sse.next_frame() {
                decoder.frame(frame)?;
                while let Some(event) = decoder.next_event() {
                    yield event;
                }
            }
            if let Some(fault) = fault {
                Err(ModelError::Malformed { problem: fault.to_string() })?;
            }
            if decoder.is_done() {
                break;
            }
        }
        for event in decoder.end()? {
            yield event;
        }
    }
    .boxed()
}

async fn refused(response: Response) -> ModelError {
    let status = response.status().as_u16();
    let retry_after = refusal::retry_after(response.headers());
    let body = beginning(response).await;
    refusal::classify(status, retry_after, &body)
}

/// A 200 that is no stream: an error in disguise, or a server that does not stream.
async fn not_a_stream(response: Response) -> ModelError {
    let body = beginning(response).await;
    refusal::in_band(&body)
        .unwrap_or_else(|| ModelError::Malformed { problem: "the answer is not an event stream".to_owned() })
}

fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Some servers leave the header out; what comes then decides.
    content_type.is_none_or(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// The first bytes of an error's body, whatever of it comes in time.
async fn beginning(response: Response) -> String {
    let mut body = Vec::new();
    let mut bytes = response.bytes_stream();
    let read = async {
        while let Ok(Some(chunk)) = bytes.try_next().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_DETAIL_BYTES - body.len())]);
            if body.len() == MAX_DETAIL_BYTES {
                break;
            }
        }
    };
    // Out of time, what came until then is the body.
    let _in_time = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    String::from_utf8_lossy(&body).into_owned()
}

fn without_url(error: reqwest::Error) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error.without_url())
}

#[cfg(test)]
mod tests;
