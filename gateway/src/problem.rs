//! What a caller over HTTP reads when something failed: RFC 9457 `application/problem+json`, one type for all.
//!
//! A problem says what to do next: `code` names the cause for machines, `retryable` whether the same request may
//! succeed later, `Retry-After` when (429 and 503 always have it), `errors` which fields are wrong. Texts that come
//! from a transport, a driver or a defect never get here: only what a Steward service said on purpose is passed on.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use svc_core::wire::error::{self, ErrorKind, ServiceError};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Prefix of every problem's `type`; the code follows.
pub const TYPE_PREFIX: &str = "urn:steward:problem:";

/// Advice of 429 and 503 that come without one.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A failed request, before it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable reason, UPPER_SNAKE.
    pub code: Cow<'static, str>,
    /// What happened, for a person.
    pub detail: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// The fields that are wrong.
    pub errors: Vec<FieldProblem>,
    /// Further headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Its path, as `turn.input`.
    pub field: String,
    /// What is wrong with it, to be read after its name.
    pub detail: Cow<'static, str>,
}

/// A problem as it is written.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
}

impl Problem {
    /// A problem of this kind, with its own code.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let row = kind.row();
        Self {
            status: status_of(kind),
            code: code.into(),
            detail: detail.into(),
            retryable: row.retryable,
            retry_after: row.retry_after,
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A problem with a status that no error kind has.
    #[must_use]
    pub fn http(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            retryable: false,
            retry_after: None,
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// One field of the request is wrong; `detail` completes the sentence "`field` …".
    #[must_use]
    pub fn field(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let sentence = format!("{field} {detail}");
        let mut problem = Self::new(ErrorKind::InvalidArgument, "INVALID_ARGUMENT", sentence);
        problem.errors.push(FieldProblem { field, detail });
        problem
    }

    /// Nothing is served at this path.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(ErrorKind::NotFound, "ROUTE_NOT_FOUND", "there is nothing at this path")
    }

    /// The path is served, by other methods.
    #[must_use]
    pub fn method_not_allowed(allowed: &[Method]) -> Self {
        let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("this path serves {allow}");
        let problem = Self::http(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
        match HeaderValue::try_from(allow) {
            Ok(allow) => problem.with_header(header::ALLOW, allow),
            Err(_) => problem,
        }
    }

    /// A defect of ours, of which the caller learns nothing but the request id to report.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(ErrorKind::Internal, "INTERNAL", "something failed on our side; report the request id")
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With this advice on when to come back.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The JSON document, on one line.
    #[must_use]
    pub fn document(&self, request_id: &str) -> String {
        let document = Document {
            r#type: format!("{TYPE_PREFIX}{}", self.code),
            title: title(self.status),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: &self.code,
            retryable: self.retryable,
            retry_after: self.retry_after_seconds(),
            request_id,
            errors: &self.errors,
        };
        // Strings and integers always serialise.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// Whole seconds, rounded up: coming back early would only fail again.
    fn retry_after_seconds(&self) -> Option<u64> {
        let must = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let after = self.retry_after.or(must.then_some(DEFAULT_RETRY_AFTER))?;
        Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// The whole answer.
    #[must_use]
    pub fn into_answer(self, request_id: &str) -> Response {
        let body = self.document(request_id);
        let retry_after = self.retry_after_seconds().map(HeaderValue::from);
        let mut response = (self.status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        headers.extend(self.headers);
        response
    }
}

/// A problem on its way through the layers: the outermost of ours writes it, since it knows the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The one place where a gRPC status becomes a problem.
impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == error::DOMAIN);
        let kind = kind_of(&status, info.is_some());
        let row = kind.row();
        // Without Steward's own details the text is a transport's or a library's: it may name hosts and paths.
        let said = info.is_some() && kind != ErrorKind::Internal;
        let code = match info {
            Some(info) if said && !info.reason.is_empty() => Cow::Owned(info.reason),
            _ => Cow::Borrowed(row.reason),
        };
        let detail = match said && !status.message().is_empty() {
            true => Cow::Owned(status.message().to_owned()),
            false => generic(kind),
        };
        let violations = status.get_details_bad_request().filter(|_| said).map(|bad| bad.field_violations);
        let errors = violations.unwrap_or_default().into_iter();
        let mut problem = Self {
            status: status_of(kind),
            code,
            detail,
            retryable: row.retryable,
            retry_after: error::retry_after_of(&status).or(row.retry_after),
            errors: errors
                .map(|v| FieldProblem { field: json_names(&v.field), detail: Cow::Owned(v.description) })
                .collect(),
            headers: Vec::new(),
        };
        if kind == ErrorKind::Unauthenticated {
            problem.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        problem
    }
}

impl Problem {
    /// The problem of an error of our own.
    #[must_use]
    pub fn from_error(error: &dyn ServiceError) -> Self {
        error::to_status(error).into()
    }
}

/// What an upstream's status means for the caller.
fn kind_of(status: &Status, steward: bool) -> ErrorKind {
    if steward {
        return ErrorKind::from_code(status.code());
    }
    if is_timeout(status) {
        return ErrorKind::DeadlineExceeded;
    }
    match status.code() {
        // Made here, from a transport's error: the upstream went away, before or while it answered.
        Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable
            if std::error::Error::source(status).is_some() =>
        {
            ErrorKind::Unavailable
        }
        // Given up by the other side without a word; our caller is still there.
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        // Every other verdict of a Steward service carries details; this one is a library's.
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => ErrorKind::Internal,
    }
}

/// Whether the channel itself ran out of time; it calls that a cancellation.
fn is_timeout(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

const fn generic(kind: ErrorKind) -> Cow<'static, str> {
    Cow::Borrowed(match kind {
        ErrorKind::InvalidArgument => "the request is not valid",
        ErrorKind::PayloadTooLarge => "the request is too large",
        ErrorKind::NotFound => "there is no such thing",
        ErrorKind::AlreadyExists => "it exists already",
        ErrorKind::FailedPrecondition => "the present state does not allow it",
        ErrorKind::Aborted => "another request was faster; read again, then retry",
        ErrorKind::Unauthenticated => "a valid credential is required",
        ErrorKind::PermissionDenied => "this credential does not allow it",
        ErrorKind::ResourceExhausted => "over a limit; retry later",
        ErrorKind::Unavailable => "a part of the plane is not reachable right now; retry later",
        ErrorKind::DeadlineExceeded => {
            "no answer in time; the outcome is unknown, so retry with the same idempotency key"
        }
        ErrorKind::Canceled => "the call was given up",
        ErrorKind::Internal => "something failed on our side; report the request id",
    })
}

fn status_of(kind: ErrorKind) -> StatusCode {
    StatusCode::from_u16(kind.row().http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        499 => "Client Closed Request",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

/// Services name fields as the contract does; callers over HTTP know them by their JSON names.
fn json_names(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                name.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests;
