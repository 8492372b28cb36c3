//! Names of the HTTP headers that are Steward's own, or that the `http` crate does not list.

/// Id of the request: sent by the caller or made by the gateway, and set on every response and in the
/// metadata of the call.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Maximum time that the caller waits for the response, in seconds.
pub(crate) const REQUEST_TIMEOUT: &str = "x-request-timeout";

/// Makes a mutation safe to repeat.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Cursor after which a stream of events resumes.
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

/// The A2A version of a request or a response.
pub(crate) const A2A_VERSION: &str = "a2a-version";

/// Id of the stored message that an A2A response belongs to.
pub(crate) const RELAY_MESSAGE: &str = "x-steward-relay-message";

/// W3C trace context of the caller. The gateway copies it to the call. If the gateway traces the request, it
/// names its own span as the parent there, instead of the caller's.
pub(crate) const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// State of the caller's rate limit: the requests left and the time until the bucket is full (IETF draft
/// `draft-ietf-httpapi-ratelimit-headers`).
pub(crate) const RATE_LIMIT: &str = "ratelimit";

/// The caller's rate limit: bucket size, and the time in which it fills up (same draft).
pub(crate) const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
