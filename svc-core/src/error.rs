//! Errors that callers receive: a closed set of kinds, one table of their codes, and google.rpc error
//! details.
//!
//! An error enum of a service implements [`ServiceError`]; only [`to_status`] turns it into a gRPC status.
//! The caller gets the error's [`PublicError`], which contains no driver message, host name, path or secret.
//! [`to_status`] also writes the error's `Display` text and its sources to the log, for the operator.

use std::{borrow::Cow, error::Error as StdError, time::Duration};

use tonic::Code;
pub use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Domain of every `ErrorInfo` Steward sends.
pub const DOMAIN: &str = "steward";

/// Kind of an error; each kind says what the caller should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    InvalidArgument,
    /// Send a smaller request.
    PayloadTooLarge,
    /// Stop: the object does not exist, or it belongs to another tenant.
    NotFound,
    /// Stop: the object exists already, or the key was used for another request.
    AlreadyExists,
    /// Bring the object into another state first, or wait for it.
    FailedPrecondition,
    /// Read again and redo: a concurrent request changed the object first.
    Aborted,
    /// Present a valid credential.
    Unauthenticated,
    /// Use another credential: this one does not allow the call.
    PermissionDenied,
    /// Back off: a limit is reached.
    ResourceExhausted,
    /// Back off: a part that this service needs is not reachable.
    Unavailable,
    /// Retry with the same idempotency key: the outcome is unknown.
    DeadlineExceeded,
    /// The caller closed the call before the answer.
    Canceled,
    /// Report it: the service has a defect.
    Internal,
}

/// A row of the table of kinds, see [`ErrorKind::row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindRow {
    pub code: Code,
    pub http_status: u16,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    pub reason: &'static str,
    /// Default delay before the next attempt.
    pub retry_after: Option<Duration>,
}

impl ErrorKind {
    pub const ALL: [Self; 13] = [
        Self::InvalidArgument,
        Self::PayloadTooLarge,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Canceled,
        Self::Internal,
    ];

    /// Returns the kind's gRPC code, HTTP status, default reason, default delay, and whether the call may be
    /// retried.
    pub const fn row(self) -> KindRow {
        const fn row(code: Code, http_status: u16, retryable: bool, reason: &'static str) -> KindRow {
            KindRow { code, http_status, retryable, reason, retry_after: None }
        }
        const SOON: Option<Duration> = Some(Duration::from_secs(1));
        match self {
            Self::InvalidArgument => row(Code::InvalidArgument, 400, false, "INVALID_ARGUMENT"),
            Self::PayloadTooLarge => row(Code::OutOfRange, 413, false, "PAYLOAD_TOO_LARGE"),
            Self::NotFound => row(Code::NotFound, 404, false, "NOT_FOUND"),
            Self::AlreadyExists => row(Code::AlreadyExists, 409, false, "ALREADY_EXISTS"),
            Self::FailedPrecondition => row(Code::FailedPrecondition, 409, false, "FAILED_PRECONDITION"),
            Self::Aborted => KindRow { retry_after: SOON, ..row(Code::Aborted, 409, true, "ABORTED") },
            Self::Unauthenticated => row(Code::Unauthenticated, 401, false, "UNAUTHENTICATED"),
            Self::PermissionDenied => row(Code::PermissionDenied, 403, false, "PERMISSION_DENIED"),
            Self::ResourceExhausted => {
                KindRow { retry_after: SOON, ..row(Code::ResourceExhausted, 429, true, "RESOURCE_EXHAUSTED") }
            }
            Self::Unavailable => {
                KindRow { retry_after: SOON, ..row(Code::Unavailable, 503, true, "UNAVAILABLE") }
            }
            Self::DeadlineExceeded => row(Code::DeadlineExceeded, 504, true, "DEADLINE_EXCEEDED"),
            Self::Canceled => row(Code::Cancelled, 499, true, "CANCELED"),
            Self::Internal => row(Code::Internal, 500, false, "INTERNAL"),
        }
    }

    /// Returns the kind of a gRPC code. `Ok`, `Unknown`, `Unimplemented` and `DataLoss` count as `Internal`.
    pub const fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::OutOfRange => Self::PayloadTooLarge,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Canceled,
            Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
                Self::Internal
            }
        }
    }
}

/// A wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// Path of the field as the contract names it, for example `turn.input`.
    pub field: String,
    /// Problem, as the rest of a sentence that begins with the field's name.
    pub problem: Cow<'static, str>,
}

impl Invalid {
    /// Builds the sentence "`field` `problem`".
    pub fn new(field: impl Into<String>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The part of an error that the caller reads. Each service maps its errors to this type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicError {
    /// Kind, which determines the gRPC code and the HTTP status.
    pub kind: ErrorKind,
    /// Stable machine-readable reason, UPPER_SNAKE.
    pub reason: Cow<'static, str>,
    /// Text for the caller; never the `Display` text of another library's error.
    pub message: Cow<'static, str>,
    /// Delay after which the caller should try again.
    pub retry_after: Option<Duration>,
    /// Wrong fields of the request.
    pub invalid: Vec<Invalid>,
}

impl PublicError {
    /// Builds the error with this reason and with the default delay of the kind.
    pub fn new(
        kind: ErrorKind,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let retry_after = kind.row().retry_after;
        Self { kind, reason: reason.into(), message: message.into(), retry_after, invalid: Vec::new() }
    }

    /// Builds the error with the default reason and the default delay of the kind.
    pub fn of_kind(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kind, kind.row().reason, message)
    }

    /// Builds the error of a defect. The caller sees only "internal error"; the log has the error with its
    /// sources.
    pub fn internal() -> Self {
        Self::of_kind(ErrorKind::Internal, "internal error")
    }

    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }
}

/// An error that a caller may receive.
///
/// [`ServiceError::public`] is one `match` over the variants without a catch-all arm, so that a new variant
/// does not compile until its [`PublicError`] is chosen. An error that wraps another one returns
/// `inner.public()`. [`crate::into_status`] makes `?` work in gRPC handlers.
pub trait ServiceError: StdError {
    /// Returns the part of the error that the caller reads.
    fn public(&self) -> PublicError;

    fn kind(&self) -> ErrorKind {
        self.public().kind
    }

    fn reason(&self) -> Cow<'static, str> {
        self.public().reason
    }

    fn public_message(&self) -> Cow<'static, str> {
        self.public().message
    }

    fn retry_after(&self) -> Option<Duration> {
        self.public().retry_after
    }
}

/// Implements the conversion of these [`ServiceError`] types into gRPC statuses, so that handlers can use
/// `?`. The types must belong to the calling crate.
#[macro_export]
macro_rules! into_status {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for $crate::error::Status {
            fn from(error: $error) -> Self {
                $crate::error::to_status(&error)
            }
        }
    )+};
}

into_status!(Invalid);

impl ServiceError for Invalid {
    fn public(&self) -> PublicError {
        let row = PublicError::of_kind(ErrorKind::InvalidArgument, self.to_string());
        PublicError { invalid: vec![self.clone()], ..row }
    }
}

/// Returns the status that the caller receives, and logs the error with its sources.
pub fn to_status(error: &dyn ServiceError) -> Status {
    let PublicError { kind, reason, message, retry_after, invalid } = error.public();
    match kind {
        ErrorKind::Internal => tracing::error!(error = %Chain(error), %reason, "request failed"),
        ErrorKind::Unavailable => tracing::warn!(error = %Chain(error), %reason, "request failed"),
        ErrorKind::InvalidArgument
        | ErrorKind::PayloadTooLarge
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Aborted
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::ResourceExhausted
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Canceled => tracing::debug!(error = %Chain(error), %reason, "request refused"),
    }
    status(kind, &reason, message, retry_after, &invalid)
}

/// Builds a status with google.rpc details: the reason, the delay if any, and the wrong fields if any.
pub fn status(
    kind: ErrorKind,
    reason: &str,
    message: impl Into<String>,
    retry_after: Option<Duration>,
    invalid: &[Invalid],
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, []);
    if let Some(after) = retry_after {
        details.set_retry_info(Some(after));
    }
    if !invalid.is_empty() {
        let violations: Vec<_> = invalid
            .iter()
            .map(|i| FieldViolation::new(i.field.clone(), i.problem.clone().into_owned()))
            .collect();
        details.set_bad_request(violations);
    }
    Status::with_error_details(kind.row().code, message, details)
}

/// Returns the reason that a Steward process put into the status; `None` if the status has no such reason.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// Returns the delay after which the sender of the status asks the caller to retry.
pub fn retry_after_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Displays an error and all its sources on one line.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a, E: ?Sized>(pub &'a E);

impl<E: StdError + ?Sized> std::fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.row().code), kind);
        }
    }

    #[test]
    fn kinds_that_ask_to_back_off_say_for_how_long() {
        for kind in [ErrorKind::ResourceExhausted, ErrorKind::Unavailable] {
            assert!(kind.row().retryable && kind.row().retry_after.is_some(), "{kind:?}");
        }
    }

    #[test]
    fn a_status_carries_reason_delay_and_fields() {
        let status = status(
            ErrorKind::InvalidArgument,
            "INVALID_ARGUMENT",
            "title is too long",
            Some(Duration::from_millis(1500)),
            &[Invalid::new("title", "must have at most 200 characters")],
        );
        assert_eq!(reason_of(&status).as_deref(), Some("INVALID_ARGUMENT"));
        assert_eq!(retry_after_of(&status), Some(Duration::from_millis(1500)));
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "title");
    }
}
