//! Lets browser applications call the API if the configuration lists their origin.
//!
//! An application must set the token header itself; the gateway reads no cookie, so a browser never adds a
//! credential on its own.

use std::time::Duration;

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::Origin,
    headers::{
        A2A_VERSION, IDEMPOTENCY_KEY, LAST_EVENT_ID, RATE_LIMIT, RATE_LIMIT_POLICY, RELAY_MESSAGE,
        REQUEST_ID, REQUEST_TIMEOUT, TRACE_CONTEXT,
    },
};

/// Maximum time that a browser may cache the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(3600);

pub(crate) fn layer(origins: &[Origin]) -> CorsLayer {
    let allowed = [REQUEST_ID, REQUEST_TIMEOUT, IDEMPOTENCY_KEY, LAST_EVENT_ID, A2A_VERSION];
    let exposed = [REQUEST_ID, A2A_VERSION, RELAY_MESSAGE, RATE_LIMIT, RATE_LIMIT_POLICY];
    let names = |own: &[&'static str], further: &[HeaderName]| -> Vec<HeaderName> {
        own.iter().map(|name| HeaderName::from_static(name)).chain(further.iter().cloned()).collect()
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().map(|origin| origin.0.clone())))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(names(
            &[&allowed[..], &TRACE_CONTEXT].concat(),
            &[header::AUTHORIZATION, header::CONTENT_TYPE],
        ))
        .expose_headers(names(&exposed, &[header::RETRY_AFTER]))
        .max_age(MAX_AGE)
}
