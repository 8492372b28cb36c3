//! Whether a request is let in: who sends it, whether the method serves them, how often they asked, how much is in
//! hand, how large it is. All of it is decided before the body is read, so that nobody unknown is read from.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use svc_core::wire::{
    auth::{CachedTokens, Credential, MethodAuth, TokenResolver, bearer},
    error::ErrorKind,
    principal::Principal,
};

use crate::{
    config::Config,
    limit::{
        concurrency::{Concurrency, RequestPermit, Stay, StreamPermit},
        rate::RateLimiter,
    },
    problem::Problem,
};

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// Lets requests in.
#[derive(Debug, Clone)]
pub struct Admission {
    tokens: Arc<dyn TokenResolver>,
    /// For streams, which ask again: what it remembers and their period are together within the promise.
    fresh_tokens: Arc<dyn TokenResolver>,
    rate: RateLimiter,
    concurrency: Concurrency,
    max_body_bytes: usize,
    body_timeout: Duration,
}

/// Who sent a request, and the room it takes until it is answered.
#[derive(Debug)]
pub struct Admitted {
    /// The sender and its credential; none at a public door.
    pub caller: Option<(Principal, Credential)>,
    /// One request in hand.
    pub permit: RequestPermit,
}

impl Admission {
    /// Admission as configured; `tokens` is asked about every token that is not remembered.
    #[must_use]
    pub fn new(config: &Config, tokens: Arc<dyn TokenResolver>, rate: RateLimiter) -> Self {
        let remembered = config.tokens.remembered;
        Self {
            tokens: Arc::new(CachedTokens::new(tokens.clone(), remembered)),
            fresh_tokens: Arc::new(CachedTokens::with_ttl(tokens, remembered, config.streams.recheck)),
            rate,
            concurrency: Concurrency::new(config),
            max_body_bytes: config.requests.max_body_bytes,
            body_timeout: config.requests.body_timeout,
        }
    }

    /// Lets in the sender of `headers`, whose request may `stay` so long. What it should know of its limits goes into `answer`, refused or not.
    ///
    /// # Errors
    /// 401, 403, 429 or 503.
    pub async fn admit(
        &self,
        auth: &MethodAuth,
        stay: Stay,
        headers: &HeaderMap,
        answer: &mut HeaderMap,
    ) -> Result<Admitted, Problem> {
        let mut permit = self.concurrency.request()?;
        if auth.public {
            return Ok(Admitted { caller: None, permit });
        }
        let refuse = |error| Problem::from_error(&error);
        let token = bearer(headers).map_err(refuse)?;
        let principal = self.tokens.resolve(token).await.map_err(refuse)?;
        self.rate.take(&principal, answer).await?;
        auth.admit(&principal).map_err(refuse)?;
        self.concurrency.attribute(&mut permit, &principal, stay)?;
        let credential = Credential::Token { token: token.into(), tokens: self.fresh_tokens.clone() };
        Ok(Admitted { caller: Some((principal, credential)), permit })
    }

    /// Room for a stream.
    ///
    /// # Errors
    /// 429 or 503.
    pub fn stream(&self, principal: Option<&Principal>) -> Result<StreamPermit, Problem> {
        self.concurrency.stream(principal)
    }

    /// Reads the whole body, never more of it than is allowed. It must be of one of these media types.
    ///
    /// # Errors
    /// 415 for anything else, 413, 408 if it comes too slowly, 400 if it breaks off.
    pub async fn read_body(
        &self,
        headers: &HeaderMap,
        body: Body,
        media_types: &[&'static str],
    ) -> Result<Bytes, Problem> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        expect_type(headers, media_types)?;
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > self.max_body_bytes as u64) {
            return Err(self.too_large());
        }
        let whole = Limited::new(body, self.max_body_bytes).collect();
        match tokio::time::timeout(self.body_timeout, whole).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(_)) => {
                Err(Problem::new(ErrorKind::InvalidArgument, "BODY_INCOMPLETE", "the body broke off"))
            }
            Err(_) => {
                let detail = "the body came too slowly";
                let problem = Problem::http(StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", detail);
                Err(problem.with_header(header::CONNECTION, HeaderValue::from_static("close")))
            }
        }
    }

    fn too_large(&self) -> Problem {
        let detail = format!("the body may have at most {} bytes", self.max_body_bytes);
        Problem::new(ErrorKind::PayloadTooLarge, "PAYLOAD_TOO_LARGE", detail)
    }
}

/// A body that is there must be of a known type, and not compressed.
fn expect_type(headers: &HeaderMap, media_types: &[&'static str]) -> Result<(), Problem> {
    let unsupported = |detail: String| {
        Err(Problem::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail))
    };
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let encoding = text(header::CONTENT_ENCODING).unwrap_or("identity");
    if !encoding.eq_ignore_ascii_case("identity") {
        return unsupported("the body must not be compressed".to_owned());
    }
    let essence = text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_types.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        true => Ok(()),
        false => unsupported(format!("the body must be {}", media_types.join(" or "))),
    }
}
