//! Every request has an id: the caller's own if it is sane, else a new one. Every answer carries it, problems in
//! their body too, and so does the call behind it.

use std::sync::Arc;

use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, HeaderValue};

/// Header and metadata key of the id.
pub const REQUEST_ID: &str = "x-request-id";

const MAX_LENGTH: usize = 128;

/// The id of the request in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id that these headers bring, or a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        Self(brought.map_or_else(|| svc_core::id::new_id().to_string().into(), Into::into))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Short, and nothing that a log line or a shell could take for more than an id.
fn is_sane(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

/// Gives the request its id, and the answer too.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            RequestId::of(&headers).as_str() == id
        };
        assert!(of("01J-abc_d.e:f"));
        let long = "x".repeat(129);
        for bad in ["", " ", "a b", "é", "${jndi}", "<script>", long.as_str()] {
            assert!(!of(bad), "{bad}");
        }
    }
}
