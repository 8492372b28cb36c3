//! Calls to other Steward services. A [`Peer`] has a channel to each replica of a service, which connects at
//! the first call. Every call carries an assertion, the trace context and a deadline. The request is one
//! message; the answer may be a stream.

mod replicas;
mod sessions;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderValue;
use serde::Deserialize;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::Service;
use tracing::Instrument;

use self::replicas::Replicas;
pub use self::{replicas::REPLICA_STOPPING, sessions::Sessions};
use crate::{
    error::{self, ErrorKind, PublicError, ServiceError},
    id::AccountId,
    run::telemetry,
    wire::{
        assertion::{METADATA_KEY, Signer},
        deadline::{Deadline, GRPC_TIMEOUT},
        principal::Principal,
    },
};

/// Maximum bytes of an answer's headers, which contain the details of an error. If an answer exceeds the
/// limit, the connection may end with all its calls.
const MAX_HEADERS: u32 = 64 << 10;

/// Addresses of a service that this one calls, and the timeout of calls to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Base URLs of the replicas, for example `http://10.0.0.7:7101`. Calls are distributed over the replicas
    /// that can be reached.
    pub urls: Vec<String>,
    /// Maximum time until a call begins to answer. It applies if the caller sets no deadline.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// The configuration of a peer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No URL is configured.
    #[error("{0} has no URL")]
    NoUrl(&'static str),
    /// A URL does not parse.
    #[error("{peer}: URL {url:?} is not usable")]
    Url {
        peer: &'static str,
        url: String,
        /// Error of the URL parser.
        source: tonic::transport::Error,
    },
}

/// Another Steward service, which this service calls.
#[derive(Debug, Clone)]
pub struct Peer {
    name: &'static str,
    replicas: Replicas,
    signer: Arc<Signer>,
    timeout: Duration,
}

impl Peer {
    /// Builds a peer for the service `name` (for example "sandbox-svc"). It connects at the first call.
    ///
    /// # Errors
    /// [`Error`] if the configuration names no usable URL.
    pub fn lazy(name: &'static str, config: &PeerConfig, signer: Arc<Signer>) -> Result<Self, Error> {
        let mut endpoints = Vec::with_capacity(config.urls.len());
        for url in &config.urls {
            let endpoint = Endpoint::from_shared(url.clone()).map_err(|source| Error::Url {
                peer: name,
                url: url.clone(),
                source,
            })?;
            endpoints.push(
                endpoint
                    .connect_timeout(Duration::from_secs(2))
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(Duration::from_secs(10))
                    .keep_alive_timeout(Duration::from_secs(5))
                    .keep_alive_while_idle(true)
                    .http2_max_header_list_size(MAX_HEADERS),
            );
        }
        if endpoints.is_empty() {
            return Err(Error::NoUrl(name));
        }
        let replicas = Replicas::new(endpoints.iter().map(Endpoint::connect_lazy).collect());
        Ok(Self { name, replicas, signer, timeout: config.timeout })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns a client that calls in the name of this service, for a tenant or (`None`) for itself.
    pub fn acting_for(&self, account_id: Option<AccountId>) -> Caller {
        let principal = Principal::service(self.signer.issuer(), account_id);
        self.stating(principal)
    }

    /// Returns a client that calls in the name of `principal`. Only the gateway may state a principal other
    /// than itself; peers refuse it from every other process.
    pub fn stating(&self, principal: Principal) -> Caller {
        Caller { peer: self.clone(), principal: Arc::new(principal), deadline: None }
    }
}

/// Calls one peer in the name of a principal. The generated gRPC clients are built on it.
#[derive(Debug, Clone)]
pub struct Caller {
    peer: Peer,
    principal: Arc<Principal>,
    deadline: Option<Deadline>,
}

impl Caller {
    /// Sets the deadline, which replaces the peer's default timeout.
    #[must_use]
    pub fn by(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Caller {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Always ready: the replica, and so its connection, is chosen only in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let replicas = self.peer.replicas.clone();
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!(
            "rpc.client",
            otel.name = %path,
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = %path,
            server.address = self.peer.name,
            rpc.response.status_code = tracing::field::Empty,
        );
        let left = self.deadline.map_or(self.peer.timeout, Deadline::left);
        let assertion = self.peer.signer.sign(self.peer.name, &self.principal);
        let work = async move {
            let headers = request.headers_mut();
            let assertion = HeaderValue::try_from(assertion?)?;
            headers.insert(METADATA_KEY, assertion);
            telemetry::inject(&tracing::Span::current(), headers);
            if !headers.contains_key(GRPC_TIMEOUT) {
                let millis = left.as_millis().clamp(1, 99_999_999);
                headers.insert(GRPC_TIMEOUT, HeaderValue::try_from(format!("{millis}m"))?);
            }
            match tokio::time::timeout(left, replicas.call(request)).await {
                Ok(answered) => answered,
                Err(_) => Err(Status::deadline_exceeded("no answer within the deadline").into()),
            }
        };
        Box::pin(work.instrument(span))
    }
}

/// A call to a peer failed. If the status has a reason, the caller of this service gets the peer's error,
/// except that Unauthenticated, PermissionDenied and Internal become a general "internal error". Without a
/// reason, the caller gets "deadline exceeded" or "unavailable", or "internal error" if the peer refused this
/// service's credential.
#[derive(Debug, thiserror::Error)]
#[error("call {peer}")]
pub struct CallError {
    peer: &'static str,
    reason: Option<String>,
    #[source]
    status: Status,
}

impl CallError {
    pub fn new(peer: &'static str, status: Status) -> Self {
        Self { peer, reason: error::reason_of(&status), status }
    }

    /// Returns the status that the peer or the transport gave.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns whether the peer itself refused the call, other than by an expired deadline, an internal error
    /// or a refusal of this service's credential. If false, callers must treat the effect of the call as
    /// unknown.
    pub fn is_verdict(&self) -> bool {
        self.reason.is_some() && !matches!(self.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Internal)
    }
}

impl ServiceError for CallError {
    fn public(&self) -> PublicError {
        let kind = match (ErrorKind::from_code(self.status.code()), &self.reason) {
            // The peer refused the credential of this service: a defect of Steward, not of the caller.
            (ErrorKind::Unauthenticated | ErrorKind::PermissionDenied, _) => ErrorKind::Internal,
            (kind, Some(_)) => kind,
            // When a timer of tonic ends a call, on either side, the code is "cancelled", and the outcome is
            // unknown.
            (ErrorKind::DeadlineExceeded | ErrorKind::Canceled, None) => ErrorKind::DeadlineExceeded,
            // Without a reason the status comes from the transport, whatever its code: the peer cannot be
            // reached.
            (_, None) => ErrorKind::Unavailable,
        };
        let public = match &self.reason {
            _ if kind == ErrorKind::Internal => PublicError::internal(),
            Some(reason) => PublicError::new(kind, reason.clone(), self.status.message().to_owned()),
            None => PublicError::of_kind(kind, "a part of the plane is not reachable right now"),
        };
        match error::retry_after_of(&self.status) {
            Some(delay) => public.retry_after(delay),
            None => public,
        }
    }
}
