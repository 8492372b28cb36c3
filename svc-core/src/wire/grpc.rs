//! Tools of a gRPC handler. A handler takes the call, parses the message, calls the use case and answers.
//!
//! ```ignore
//! let (call, request) = Call::take(request)?;
//! let session = SessionId::parse("session_id", &request.session_id)?;
//! let turn = self.turns.create(call.account()?, session, request.input, &call.once()?).await?;
//! Ok(Response::new(CreateTurnResponse { turn: Some(turn.into()) }))
//! ```
//!
//! The facts in a [`Call`] come from the server's layers ([`crate::wire::server`]). Errors become statuses by
//! `?`: [`Invalid`], [`Refused`] and, by [`crate::into_status`], the error type of a service.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use prost_types::{ListValue, Struct, value::Kind};
use tonic::{Request, Status};

use crate::{
    data::idempotency::{Key, Once, RequestHash},
    error::{Invalid, PublicError, ServiceError},
    id::AccountId,
    wire::{
        auth::Credential,
        deadline::Deadline,
        page::{self, Page},
        principal::{self, Principal, Refused},
    },
};

/// Default and maximum size of a page.
const PAGE_SIZE: (u32, u32) = (50, 200);

/// Name of the called method, as `steward.chat.v1.ChatService/RunTurn`. The server's layers put it into the
/// extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodName(Arc<str>);

impl MethodName {
    /// Reads the name from a gRPC path, as `/steward.chat.v1.ChatService/RunTurn`.
    pub fn from_path(path: &str) -> Self {
        Self(path.trim_start_matches('/').into())
    }
}

/// A fact that a call lacks, because its handler does not run behind [`crate::wire::server`] or its request
/// is a stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("call has no {0}")]
pub struct Missing(&'static str);

impl ServiceError for Missing {
    fn public(&self) -> PublicError {
        PublicError::internal()
    }
}

crate::into_status!(Missing);

/// The facts of a call without its message: caller, credential, deadline, method and idempotency key.
#[derive(Debug, Clone)]
pub struct Call {
    principal: Principal,
    credential: Option<Credential>,
    deadline: Option<Deadline>,
    method: Option<MethodName>,
    key: Result<Option<Key>, Invalid>,
    hash: Option<RequestHash>,
}

impl Call {
    /// Splits a request into its [`Call`] (caller, credential, deadline, method, idempotency key) and its
    /// message. If the request has a key, also hashes the message.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if no layer authenticated the caller.
    pub fn take<T: prost::Message>(request: Request<T>) -> Result<(Self, T), Status> {
        let mut call = Self::of(&request)?;
        if let Ok(Some(_)) = call.key {
            call.hash = Some(RequestHash::of(request.get_ref()));
        }
        Ok((call, request.into_inner()))
    }

    /// Reads the facts of a call with a stream of messages. [`Self::once`] works for it only without an
    /// idempotency key.
    ///
    /// # Errors
    /// [`Refused::Missing`] if no layer authenticated the caller.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Refused> {
        let extensions = request.extensions();
        Ok(Self {
            principal: principal::of(request)?.clone(),
            credential: extensions.get().cloned(),
            deadline: extensions.get().copied(),
            method: extensions.get().cloned(),
            key: Key::from_metadata(request.metadata()),
            hash: None,
        })
    }

    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the tenant for which the call is made.
    ///
    /// # Errors
    /// [`Refused::NoAccount`] for an admin, or for a service that acts for no tenant.
    pub fn account(&self) -> Result<AccountId, Refused> {
        self.principal.account_id()
    }

    /// Returns the caller's credential, which a stream checks again while it runs.
    ///
    /// # Errors
    /// [`Refused::Missing`] if no layer authenticated the caller.
    pub fn credential(&self) -> Result<Credential, Refused> {
        self.credential.clone().ok_or(Refused::Missing)
    }

    /// Returns the instant by which the call must be answered; `None` if its answer is a stream.
    pub const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Returns the caller's idempotency key; `None` if the call has none.
    ///
    /// # Errors
    /// [`Invalid`] if the key is malformed.
    pub fn key(&self) -> Result<Option<&Key>, Invalid> {
        self.key.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// Returns the identity by which a repetition of the request is recognized.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the key is malformed; `INTERNAL` if the call has a key but another fact is
    /// [`Missing`].
    pub fn once(&self) -> Result<Once, Status> {
        let Some(key) = self.key()? else { return Ok(Once::unkeyed()) };
        let method = self.method.as_ref().ok_or(Missing("method name"))?;
        let hash = self.hash.ok_or(Missing("single message"))?;
        Ok(Once::new(method.0.clone(), key.clone(), hash))
    }
}

/// Returns the size of a page: `requested`, or 50 if `requested` is 0, but at most 200.
///
/// # Errors
/// [`Invalid`] if `requested` is negative.
pub fn page_size(requested: i32) -> Result<u32, Invalid> {
    page::size(requested, PAGE_SIZE.0, PAGE_SIZE.1)
}

/// Splits a page into the items of a response and the token of the next page.
pub fn parts<T, U: From<T>>(page: Page<T>) -> (Vec<U>, String) {
    (page.items.into_iter().map(U::from).collect(), page.next_page_token)
}

pub fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(999_999_999);
    prost_types::Timestamp { seconds: at.timestamp(), nanos }
}

/// Converts a timestamp, truncated to microseconds, the precision of Postgres.
///
/// # Errors
/// [`Invalid`] names `field` if the timestamp is missing or out of range.
pub fn parse_timestamp(field: &str, at: Option<prost_types::Timestamp>) -> Result<DateTime<Utc>, Invalid> {
    let at = at.ok_or_else(|| Invalid::new(field, "is required"))?;
    let nanos = u32::try_from(at.nanos).ok().map(|nanos| nanos / 1000 * 1000);
    nanos
        .and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos))
        .ok_or_else(|| Invalid::new(field, "is no time"))
}

pub fn duration(duration: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos }
}

/// Converts a duration; returns `None` if the field is not set.
///
/// # Errors
/// [`Invalid`] names `field` if the duration is negative.
pub fn parse_duration(
    field: &str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    let parsed = duration.map(Duration::try_from).transpose();
    parsed.map_err(|_| Invalid::new(field, "must not be negative"))
}

/// Writes a JSON object. A `Struct` holds numbers as doubles.
pub fn structure(fields: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, json)| (key, value(json))).collect() }
}

fn value(json: serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::idempotency::HEADER,
        error::{ErrorKind, reason_of},
    };

    fn request(key: Option<&str>) -> Request<String> {
        let mut request = Request::new("message".to_owned());
        request.extensions_mut().insert(Principal::account(AccountId::new()));
        if let Some(key) = key {
            request.metadata_mut().insert(HEADER, key.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_call_without_a_principal_is_refused() {
        let status = Call::take(Request::new(String::new())).unwrap_err();
        assert_eq!(reason_of(&status).as_deref(), Some("UNAUTHENTICATED"));
    }

    #[test]
    fn a_key_needs_the_method_name_of_the_server() {
        let (call, _) = Call::take(request(Some("k"))).unwrap();
        assert_eq!(call.once().unwrap_err().code(), ErrorKind::Internal.row().code);
        let (call, _) = Call::take(request(None)).unwrap();
        call.once().unwrap();
        let mut named = request(Some("k"));
        named.extensions_mut().insert(MethodName::from_path("/a.v1.AService/Do"));
        Call::take(named).unwrap().0.once().unwrap();
    }

    #[test]
    fn a_malformed_key_is_refused_where_it_counts() {
        let (call, _) = Call::take(request(Some("k 1"))).unwrap();
        assert!(call.account().is_ok());
        assert_eq!(call.once().unwrap_err().code(), ErrorKind::InvalidArgument.row().code);
    }

    #[test]
    fn times_survive_the_wire() {
        let at = DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap();
        assert_eq!(parse_timestamp("at", Some(timestamp(at))).unwrap(), at);
        let negative = prost_types::Timestamp { seconds: 0, nanos: -1 };
        for bad in [None, Some(negative)] {
            assert_eq!(parse_timestamp("at", bad).unwrap_err().field, "at");
        }
        let span = Duration::from_millis(1500);
        assert_eq!(parse_duration("ttl", Some(duration(span))).unwrap(), Some(span));
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert_eq!(parse_duration("ttl", Some(negative)).unwrap_err().field, "ttl");
    }
}
