//! Admits requests: authenticates the caller, checks that it may call the method, and applies the rate limit,
//! the concurrency limits and the body limits.
//!
//! The body is read only after the checks of the caller, so that an unauthenticated caller cannot make the
//! gateway read one unless the method is public.

mod bucket;
pub(crate) mod concurrency;
pub(crate) mod rate;

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use svc_core::{
    error::ErrorKind,
    wire::{
        auth::{CachedTokens, Credential, MethodAuth, TokenResolver, bearer},
        principal::Principal,
    },
};

use self::{
    concurrency::{Concurrency, RequestClass, RequestPermit, StreamPermit},
    rate::RateLimiter,
};
use crate::{config::Config, problem::Problem};

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

#[derive(Debug, Clone)]
pub(crate) struct Admission {
    tokens: Arc<dyn TokenResolver>,
    /// Resolves the tokens of open streams. Each stream checks its token every `streams.recheck`, and this
    /// resolver caches a result for as long again, so a stream ends within twice that time after its token is
    /// revoked. `Config::check` limits the sum to `TOKEN_TTL`.
    fresh_tokens: Arc<dyn TokenResolver>,
    rate: RateLimiter,
    concurrency: Concurrency,
    max_body_bytes: usize,
    body_timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Admitted {
    /// The caller with its credential; `None` if the method is public.
    pub(crate) caller: Option<(Principal, Credential)>,
    /// The request counts against the limits until this permit is dropped.
    pub(crate) permit: RequestPermit,
}

impl Admission {
    /// Builds the checks. `tokens` resolves a token whenever its principal is not in the cache.
    pub(crate) fn new(config: &Config, tokens: Arc<dyn TokenResolver>, rate: RateLimiter) -> Self {
        let cached = config.tokens.remembered;
        Self {
            tokens: Arc::new(CachedTokens::new(tokens.clone(), cached)),
            fresh_tokens: Arc::new(CachedTokens::with_ttl(tokens, cached, config.streams.recheck)),
            rate,
            concurrency: Concurrency::new(config),
            max_body_bytes: config.requests.max_body_bytes,
            body_timeout: config.requests.body_timeout,
        }
    }

    /// Admits the caller that sent `headers`. Writes the rate limit's headers into `answer`, also if the
    /// caller is refused later.
    ///
    /// # Errors
    /// 401 without a valid token, 403 if the method does not serve the caller, 429 if the caller exceeds a
    /// limit, 503 if the gateway is full or the token cannot be resolved now.
    pub(crate) async fn admit(
        &self,
        auth: &MethodAuth,
        class: RequestClass,
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
        self.concurrency.attribute(&mut permit, &principal, class)?;
        if let Some(account) = principal.account_id {
            tracing::Span::current().record("account.id", account.to_string());
        }
        let credential = Credential::Token { token: token.into(), tokens: self.fresh_tokens.clone() };
        Ok(Admitted { caller: Some((principal, credential)), permit })
    }

    /// Counts a stream against the limits until the returned permit is dropped.
    ///
    /// # Errors
    /// 429 if the caller has too many streams, 503 if the process has too many.
    pub(crate) fn stream(&self, principal: Option<&Principal>) -> Result<StreamPermit, Problem> {
        self.concurrency.stream(principal)
    }

    /// Reads the whole body. Unless it is empty, it must have one of `media_types`.
    ///
    /// # Errors
    /// 415 for another media type or a compressed body, 413 over the size limit, 408 over the time limit, 400
    /// if the connection breaks.
    pub(crate) async fn read_body(
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

/// Checks that the body has one of the media types and is not compressed.
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
