//! Calls the service of a route with dynamic messages. Copies the request id, the trace context and the
//! idempotency key of the HTTP request to the metadata of the call, and no other header.

use std::{collections::HashMap, time::Duration};

use http::HeaderMap;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use svc_core::{
    data::idempotency::Key,
    error::reason_of,
    run::config::Unusable,
    wire::{
        client::{Caller, Peer},
        deadline::{Deadline, GRPC_TIMEOUT, parse_grpc_timeout},
        principal::Principal,
    },
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};

use crate::{
    admit::concurrency::RequestClass,
    config::RequestsConfig,
    headers::{IDEMPOTENCY_KEY, LAST_EVENT_ID, REQUEST_ID, REQUEST_TIMEOUT, TRACE_CONTEXT},
    layer::request_id::RequestId,
    problem::Problem,
    table::{Route, Table},
};

/// registry-svc's reason for a token that was revoked or has expired.
const TOKEN_NOT_LIVE: &str = "TOKEN_NOT_LIVE";

/// The services that the gateway calls.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    /// The services by short name.
    peers: HashMap<String, Peer>,
    timeout: Duration,
    /// Timeouts by full name of the method.
    timeouts: HashMap<String, Duration>,
    max_answer_bytes: usize,
}

/// The parts of a call besides its message.
#[derive(Debug)]
pub(crate) struct Context {
    /// The caller; `None` if the method is public.
    principal: Option<Principal>,
    deadline: Deadline,
    metadata: MetadataMap,
}

impl Upstreams {
    /// Builds the set of services that the gateway calls, and checks the configuration against `table`.
    ///
    /// # Errors
    /// Fails if the service of a route has no peer, or if a timeout names a method without a route.
    pub(crate) fn new(
        table: &Table,
        peers: HashMap<String, Peer>,
        config: &RequestsConfig,
    ) -> Result<Self, Unusable> {
        if table.upstreams().iter().any(|name| !peers.contains_key(*name)) {
            return Err(Unusable::new("peers", "lacks a service that the contract has routes to"));
        }
        let known = |name: &str| table.routes().iter().any(|route| route.rpc.full_name() == name);
        if config.timeouts.keys().any(|name| !known(name)) {
            return Err(Unusable::new("requests.timeouts", "names a method that has no route"));
        }
        Ok(Self {
            peers,
            timeout: config.timeout,
            timeouts: config.timeouts.iter().map(|(name, timeout)| (name.clone(), timeout.0)).collect(),
            max_answer_bytes: config.max_answer_bytes,
        })
    }

    /// Returns the services with their short names.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer))
    }

    /// Returns the class of a route's requests: long if the configuration sets a timeout for the method.
    pub(crate) fn class(&self, route: &Route) -> RequestClass {
        if self.timeouts.contains_key(route.rpc.full_name()) {
            RequestClass::Long
        } else {
            RequestClass::Short
        }
    }

    /// Makes the context of a call from the request's headers.
    ///
    /// # Errors
    /// 400 for an invalid header.
    pub(crate) fn context(
        &self,
        route: &Route,
        principal: Option<Principal>,
        headers: &HeaderMap,
        request_id: &RequestId,
    ) -> Result<Context, Problem> {
        let ceiling = self.timeouts.get(route.rpc.full_name()).copied().unwrap_or(self.timeout);
        let timeout = requested_timeout(headers)?.unwrap_or(ceiling);
        let metadata = metadata(headers, request_id)?;
        Ok(Context { principal, deadline: Deadline::after(timeout.min(ceiling)), metadata })
    }

    /// Calls a unary method.
    pub(crate) async fn unary(
        &self,
        route: &Route,
        message: DynamicMessage,
        context: Context,
    ) -> Result<DynamicMessage, Problem> {
        let deadline = context.deadline;
        let (mut grpc, request) = self.prepare(route, message, context)?;
        let call = async {
            grpc.ready().await.map_err(Status::from_error)?;
            grpc.unary(request, route.grpc_path.clone(), DynamicCodec(route.rpc.output())).await
        };
        within(deadline, route, call).await
    }

    /// Calls a streaming method. The deadline limits the time until the stream begins, not its duration.
    pub(crate) async fn stream(
        &self,
        route: &Route,
        message: DynamicMessage,
        context: Context,
    ) -> Result<Streaming<DynamicMessage>, Problem> {
        let deadline = context.deadline;
        let (mut grpc, request) = self.prepare(route, message, context)?;
        let call = async {
            grpc.ready().await.map_err(Status::from_error)?;
            grpc.server_streaming(request, route.grpc_path.clone(), DynamicCodec(route.rpc.output())).await
        };
        within(deadline, route, call).await
    }

    fn prepare(
        &self,
        route: &Route,
        message: DynamicMessage,
        context: Context,
    ) -> Result<(Grpc<Caller>, Request<DynamicMessage>), Problem> {
        let peer = self.peers.get(&route.upstream).ok_or_else(Problem::internal)?;
        let caller = match context.principal {
            Some(principal) => peer.stating(principal),
            None => peer.acting_for(None),
        };
        let grpc = Grpc::new(caller.by(context.deadline)).max_decoding_message_size(self.max_answer_bytes);
        let mut request = Request::new(message);
        *request.metadata_mut() = context.metadata;
        Ok((grpc, request))
    }
}

async fn within<T>(
    deadline: Deadline,
    route: &Route,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(deadline.left(), call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(problem_of(route, status)),
        Err(_) => Err(Status::deadline_exceeded("no answer within the deadline").into()),
    }
}

/// Logs a service's error status and turns it into the caller's problem.
pub(crate) fn problem_of(route: &Route, status: Status) -> Problem {
    let rpc = route.rpc.full_name();
    match status.code() {
        // The gateway has authenticated the caller, so the service refused the gateway's own assertion. There
        // is one exception: registry-svc may know that a token is no longer valid while the gateway still has
        // it in its cache, for example an enrolment that was used once.
        Code::Unauthenticated if reason_of(&status).as_deref() != Some(TOKEN_NOT_LIVE) => {
            tracing::error!(rpc.method = rpc, error = %status, "service refused the gateway's assertion");
            Problem::internal()
        }
        _ => {
            let text = status.to_string();
            let problem = Problem::from(status);
            match problem.status.as_u16() {
                500 => tracing::error!(rpc.method = rpc, error = text, "service failed"),
                502..=504 => tracing::warn!(rpc.method = rpc, error = text, "service did not answer"),
                _ => tracing::debug!(rpc.method = rpc, error = text, "service refused"),
            }
            problem
        }
    }
}

/// Returns the caller's timeout, which is the shorter of `grpc-timeout` and `x-request-timeout`.
fn requested_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let seconds = |text: &str| {
        let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_sign_positive());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|time| !time.is_zero())
    };
    let own = text(REQUEST_TIMEOUT).map(|text| {
        seconds(text).ok_or_else(|| Problem::field("X-Request-Timeout", "must be seconds above 0"))
    });
    let grpc = text(GRPC_TIMEOUT).map(|text| {
        let problem = || Problem::field("grpc-timeout", "must have the form that gRPC defines");
        parse_grpc_timeout(text).ok_or_else(problem)
    });
    Ok(own.transpose()?.into_iter().chain(grpc.transpose()?).min())
}

fn metadata(headers: &HeaderMap, request_id: &RequestId) -> Result<MetadataMap, Problem> {
    let mut metadata = MetadataMap::new();
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = AsciiMetadataValue::try_from(text) {
            metadata.insert(AsciiMetadataKey::from_static(name), value);
        }
    };
    put(REQUEST_ID, request_id.as_str());
    for name in TRACE_CONTEXT {
        if let Some(text) = headers.get(name).and_then(|value| value.to_str().ok()) {
            put(name, text);
        }
    }
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    if let Some(key) = keys.next() {
        let key = key.to_str().unwrap_or_default();
        if key.parse::<Key>().is_err() || keys.next().is_some() {
            return Err(Problem::field(
                "Idempotency-Key",
                "must be one key of 1 to 255 visible ASCII characters",
            ));
        }
        put(IDEMPOTENCY_KEY, key);
    }
    Ok(metadata)
}

/// Reads the `Last-Event-ID` header; `None` if it is missing or empty.
///
/// # Errors
/// 400 if it is not UTF-8.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text =
        std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::field("Last-Event-ID", "is not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Encodes dynamic messages, and decodes messages of one type.
#[derive(Clone)]
struct DynamicCodec(MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
