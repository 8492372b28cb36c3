//! Error responses: RFC 9457 `application/problem+json`, one form for every error.
//!
//! `code` identifies the cause for programs, `retryable` says whether the same request may succeed later,
//! `Retry-After` says after how many seconds (429 and 503 always have it), and `errors` lists the invalid
//! fields. A caller gets only texts that a Steward service wrote for callers. Texts of transports, drivers
//! and defects are only logged.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use svc_core::error::{self, ErrorKind, ServiceError};
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The `type` of a problem is this prefix and the code.
pub(crate) const TYPE_PREFIX: &str = "urn:steward:problem:";

/// Retry-After of a 429 or 503 if the service did not send one.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The error response of a request, without the request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// Stable reason, in UPPER_SNAKE.
    pub(crate) code: Cow<'static, str>,
    /// Explanation for a person.
    pub(crate) detail: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub(crate) retryable: bool,
    /// Minimum time to wait before a retry.
    pub(crate) retry_after: Option<Duration>,
    /// The invalid fields, if any.
    pub(crate) errors: Vec<FieldProblem>,
    /// Additional headers of the response.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FieldProblem {
    /// Path of the field, such as `turn.input`.
    pub(crate) field: String,
    /// Completes the sentence "`field` …", as in "must be a UUID".
    pub(crate) detail: Cow<'static, str>,
}

/// The body of the response.
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
    /// Builds a problem with the status and retry advice of `kind`.
    pub(crate) fn new(
        kind: ErrorKind,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let row = kind.row();
        Self {
            retryable: row.retryable,
            retry_after: row.retry_after,
            ..Self::http(status_of(kind), code, detail)
        }
    }

    /// Builds a problem with a status that no error kind has. It is not retryable.
    pub(crate) fn http(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
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

    /// Builds a problem of one invalid field; `detail` completes the sentence "`field` …".
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let sentence = format!("{field} {detail}");
        let mut problem = Self::new(ErrorKind::InvalidArgument, "INVALID_ARGUMENT", sentence);
        problem.errors.push(FieldProblem { field, detail });
        problem
    }

    pub(crate) fn no_route() -> Self {
        Self::new(ErrorKind::NotFound, "ROUTE_NOT_FOUND", "there is nothing at this path")
    }

    /// Builds the problem of a method that the path does not serve; `allowed` are the methods that it serves.
    pub(crate) fn method_not_allowed(allowed: &[Method]) -> Self {
        let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("this path serves {allow}");
        let problem = Self::http(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
        match HeaderValue::try_from(allow) {
            Ok(allow) => problem.with_header(header::ALLOW, allow),
            Err(_) => problem,
        }
    }

    /// Builds the problem of a defect of Steward. The caller gets only the request id to report; the log has
    /// the cause.
    pub(crate) fn internal() -> Self {
        Self::new(ErrorKind::Internal, "INTERNAL", "something failed on our side; report the request id")
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Returns the body, one line of JSON.
    pub(crate) fn document(&self, request_id: &str) -> String {
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

    /// Returns whole seconds, rounded up, because a retry before the time would only fail again.
    fn retry_after_seconds(&self) -> Option<u64> {
        let must = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let after = self.retry_after.or(must.then_some(DEFAULT_RETRY_AFTER))?;
        Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// Builds the complete HTTP response.
    pub(crate) fn into_answer(self, request_id: &str) -> Response {
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

/// Puts the problem into an extension of the response; `layer/problems.rs` takes it out and writes the body
/// with the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns a gRPC status into a problem. This is the only place that does so.
impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == error::DOMAIN);
        let kind = kind_of(&status, info.is_some());
        // Without Steward's details the text is from a transport or a library, and may contain hosts and
        // paths.
        let public = info.is_some() && kind != ErrorKind::Internal;
        let code = match info {
            Some(info) if public && !info.reason.is_empty() => Cow::Owned(info.reason),
            _ => Cow::Borrowed(kind.row().reason),
        };
        let detail = match public && !status.message().is_empty() {
            true => Cow::Owned(status.message().to_owned()),
            false => generic(kind),
        };
        let mut problem = Self::new(kind, code, detail);
        problem.retry_after = error::retry_after_of(&status).or(problem.retry_after);
        if let Some(bad) = status.get_details_bad_request().filter(|_| public) {
            let errors = bad.field_violations.into_iter();
            problem.errors = errors
                .map(|v| FieldProblem { field: json_names(&v.field), detail: Cow::Owned(v.description) })
                .collect();
        }
        if kind == ErrorKind::Unauthenticated {
            problem.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        problem
    }
}

impl Problem {
    pub(crate) fn from_error(error: &dyn ServiceError) -> Self {
        error::to_status(error).into()
    }
}

/// Returns the kind of error for the caller. `steward` says whether a Steward service made the status.
fn kind_of(status: &Status, steward: bool) -> ErrorKind {
    if steward {
        return ErrorKind::from_code(status.code());
    }
    if is_timeout(status) {
        return ErrorKind::DeadlineExceeded;
    }
    match status.code() {
        // The transport made the status in this process: the service's connection broke before or during the
        // answer.
        Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable
            if std::error::Error::source(status).is_some() =>
        {
            ErrorKind::Unavailable
        }
        // The service ended the call without details, and the caller is still waiting.
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        // Every error of a Steward service has details, so this one was made by a library.
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

/// Returns whether the channel's own timeout ended the call, which gives the status code `Cancelled`.
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

/// Converts a field path with the contract's names to one with JSON names.
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
