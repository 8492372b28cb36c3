//! Gives every request an id: the caller's own if it is valid, otherwise a new one. The id is in the
//! response's header, in the body of a problem, and in the metadata of the call to the service.

use std::sync::Arc;

use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, HeaderValue};

use crate::headers::REQUEST_ID;

const MAX_LENGTH: usize = 128;

/// Extension of a request: its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_valid(id));
        Self(sent.map_or_else(|| svc_core::id::new_id().to_string().into(), Into::into))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows only characters without a meaning in log lines, shells and markup.
fn is_valid(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
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
    fn a_valid_id_is_kept_and_any_other_replaced() {
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
