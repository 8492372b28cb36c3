//! Which browser applications of other origins may call: those that the configuration names, and no others.
//!
//! Tokens travel in a header that a page must set itself, never in a cookie, so no answer depends on what a
//! browser adds by itself.

use std::time::Duration;

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::request_id::REQUEST_ID;
use crate::{
    config::Origin,
    door::a2a::{A2A_VERSION, RELAY_MESSAGE},
    transcode::call::{IDEMPOTENCY_KEY, REQUEST_TIMEOUT},
};

/// How long a browser may remember what it was told.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The layer for these origins.
pub fn layer(origins: &[Origin]) -> CorsLayer {
    let request_id = HeaderName::from_static(REQUEST_ID);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().map(|origin| origin.0.clone())))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            IDEMPOTENCY_KEY,
            REQUEST_TIMEOUT,
            HeaderName::from_static("last-event-id"),
            A2A_VERSION,
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            request_id.clone(),
        ])
        .expose_headers([
            request_id,
            header::RETRY_AFTER,
            A2A_VERSION,
            RELAY_MESSAGE,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
        ])
        .max_age(REMEMBERED)
}
