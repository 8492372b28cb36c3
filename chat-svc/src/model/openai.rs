//! Any endpoint that speaks OpenAI's Chat Completions: OpenAI itself, gateways, vLLM, llama.cpp and similar
//! servers.
//!
//! One call is one streaming POST. Nothing is retried and no redirect is followed. Limits apply to the bytes
//! of an event, the bytes of an error body, and the time between bytes. Error texts are for operators only
//! ([`super::model_client::Detail`]); the key is never logged. [`decode`] reads the stream without I/O,
//! [`request`] builds requests, [`refusal`] classifies refusals.

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
use secrecy::ExposeSecret;
use svc_core::run::telemetry;
use tracing::Span;

use super::{
    model_client::{MAX_DETAIL_BYTES, ModelClient, ModelError, ModelRequest, ModelStream},
    sse::SseDecoder,
};
use crate::domain::settings::{OpenAiConfig, Timeouts};
use decode::Decoder;

/// Maximum wait for the usage and the stream's end after the message has finished.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum wait for the body of an error.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("base_url must be http or https, with a host and without credentials, query or fragment")]
    BaseUrl,
    #[error("api_key must be printable ASCII")]
    ApiKey,
    #[error("HTTP client cannot be created")]
    Http(#[source] reqwest::Error),
}

/// A client of one endpoint.
pub(crate) struct OpenAi {
    http: Client,
    /// The base URL, without a trailing slash.
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
    /// Checks the configuration; makes no call.
    ///
    /// # Errors
    /// [`ConfigError`] names the wrong key.
    pub(crate) fn new(config: &OpenAiConfig) -> Result<Self, ConfigError> {
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

/// Returns the events of a successful answer.
fn events(response: Response, idle: Duration) -> ModelStream {
    let mut bytes = response.bytes_stream();
    async_stream::try_stream! {
        let mut sse = SseDecoder::default();
        let mut decoder = Decoder::default();
        loop {
            let limit = if decoder.is_finished() { TAIL_TIMEOUT.min(idle) } else { idle };
            let chunk = match tokio::time::timeout(limit, bytes.next()).await {
                Err(_) => Err(ModelError::Stalled { idle }),
                Ok(Some(Err(error))) => Err(ModelError::Cut { source: Some(without_url(error)) }),
                Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
                Ok(None) => Ok(None),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                // The body has ended; `decoder.end` fails if the message is not finished.
                Ok(None) => break,
                // The message is finished, so it does no harm if the rest of the stream is cut or stalls.
                Err(_) if decoder.is_finished() => break,
                Err(error) => Err(error)?,
            };
            // The frames before the fault are valid, so the fault is reported last.
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

/// Classifies a 200 without a stream: an error body, or a server that does not stream.
async fn not_a_stream(response: Response) -> ModelError {
    let body = beginning(response).await;
    refusal::in_band(&body)
        .unwrap_or_else(|| ModelError::Malformed { problem: "the answer is not an event stream".to_owned() })
}

fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Some servers omit the header; then the decoder checks the content.
    content_type.is_none_or(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// Reads the first bytes of an error's body that arrive in time.
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
    // After a timeout, uses the bytes that have arrived.
    let _complete = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    String::from_utf8_lossy(&body).into_owned()
}

fn without_url(error: reqwest::Error) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error.without_url())
}

#[cfg(test)]
mod tests;
