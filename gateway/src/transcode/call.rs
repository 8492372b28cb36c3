//! The call to the service behind a route: a dynamic message out, dynamic messages back, over that service's one
//! channel. Nothing of the HTTP request travels but what is put here on purpose.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, HeaderName};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use svc_core::wire::{
    client::{Caller, Peer},
    deadline::{Deadline, GRPC_TIMEOUT, parse_grpc_timeout},
    error::reason_of,
    principal::Principal,
};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};

use crate::{
    config::{RequestsConfig, Unusable},
    layer::request_id::{REQUEST_ID, RequestId},
    limit::concurrency::Stay,
    problem::Problem,
    table::{Route, Table},
};

/// Header with which a caller limits the time for its answer, in seconds.
pub const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// Header that makes a mutation safe to repeat.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The registry's reason for a token that has ended meanwhile.
const TOKEN_NOT_LIVE: &str = "TOKEN_NOT_LIVE";

const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Headers of the caller that go on as they are, once they were looked at.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// The services behind the door.
#[derive(Debug, Clone)]
pub struct Upstreams {
    peers: HashMap<String, Peer>,
    timeout: Duration,
    timeouts: HashMap<String, Duration>,
    max_answer_bytes: usize,
}

/// What one call carries besides its message.
#[derive(Debug)]
pub struct Context {
    /// In whose name; none at a public door.
    pub principal: Option<Principal>,
    /// When the caller stops waiting.
    pub deadline: Deadline,
    /// The caller's own words, as metadata.
    pub metadata: MetadataMap,
}

impl Upstreams {
    /// The services of a table.
    ///
    /// # Errors
    /// [`Unusable`] if a route's service has no peer, or a timeout names no method.
    pub fn new(
        table: &Table,
        peers: HashMap<String, Peer>,
        config: &RequestsConfig,
    ) -> Result<Self, Unusable> {
        if table.upstreams().iter().any(|name| !peers.contains_key(*name)) {
            return Err(Unusable {
                key: "peers",
                problem: "lacks a service that the contract has routes to",
            });
        }
        let known = |name: &str| table.routes().iter().any(|route| route.rpc.full_name() == name);
        if config.timeouts.keys().any(|name| !known(name)) {
            return Err(Unusable { key: "requests.timeouts", problem: "names a method that has no route" });
        }
        Ok(Self {
            peers,
            timeout: config.timeout,
            timeouts: config.timeouts.iter().map(|(name, timeout)| (name.clone(), timeout.0)).collect(),
            max_answer_bytes: config.max_answer_bytes,
        })
    }

    /// The services by name.
    pub fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer))
    }

    /// How long requests of a route may stay in hand: longer if they have a time of their own.
    pub fn stay(&self, route: &Route) -> Stay {
        if self.timeouts.contains_key(route.rpc.full_name()) { Stay::Long } else { Stay::Short }
    }

    /// What a call on behalf of these headers carries.
    ///
    /// # Errors
    /// 400 for a header that cannot be understood.
    pub fn context(
        &self,
        route: &Route,
        principal: Option<Principal>,
        headers: &HeaderMap,
        request_id: &RequestId,
    ) -> Result<Context, Problem> {
        let ceiling = self.timeouts.get(route.rpc.full_name()).copied().unwrap_or(self.timeout);
        let wish = wished_timeout(headers)?.unwrap_or(ceiling);
        let metadata = metadata(headers, request_id)?;
        Ok(Context { principal, deadline: Deadline::after(wish.min(ceiling)), metadata })
    }

    /// Calls a method that answers once.
    ///
    /// # Errors
    /// What the service said, or that there was no answer.
    pub async fn unary(
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
        match tokio::time::timeout(deadline.left(), call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(verdict(route, status)),
            Err(_) => Err(Status::deadline_exceeded("no answer within the deadline").into()),
        }
    }

    /// Calls a method that answers with a stream. The deadline is for the stream to begin; it ends when it ends.
    ///
    /// # Errors
    /// What the service said, or that there was no answer.
    pub async fn stream(
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
        match tokio::time::timeout(deadline.left(), call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(verdict(route, status)),
            Err(_) => Err(Status::deadline_exceeded("no answer within the deadline").into()),
        }
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

/// The problem that an upstream's status is to our caller.
#[must_use]
pub fn verdict(route: &Route, status: Status) -> Problem {
    let rpc = route.rpc.full_name();
    match status.code() {
        // The caller was proven here: what was refused is our own word for it; unless the registry knows better than
        // what was remembered, as of an enrolment that was used a moment ago.
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

/// How long the caller would wait: the shorter of gRPC's header and ours.
fn wished_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let seconds = |text: &str| {
        let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_sign_positive());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|wish| !wish.is_zero())
    };
    let ours = match text(REQUEST_TIMEOUT.as_str()) {
        None => None,
        Some(text) => Some(
            seconds(text).ok_or_else(|| Problem::field("X-Request-Timeout", "must be seconds above 0"))?,
        ),
    };
    let grpc = match text(GRPC_TIMEOUT) {
        None => None,
        Some(text) => Some(
            parse_grpc_timeout(text)
                .ok_or_else(|| Problem::field("grpc-timeout", "must be as gRPC has it"))?,
        ),
    };
    Ok(match (ours, grpc) {
        (Some(ours), Some(grpc)) => Some(ours.min(grpc)),
        (ours, grpc) => ours.or(grpc),
    })
}

fn metadata(headers: &HeaderMap, request_id: &RequestId) -> Result<MetadataMap, Problem> {
    let mut metadata = MetadataMap::new();
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = AsciiMetadataValue::try_from(text) {
            metadata.insert(AsciiMetadataKey::from_static(name), value);
        }
    };
    put(REQUEST_ID, request_id.as_str());
    for name in TRACE_HEADERS {
        if let Some(text) = headers.get(name).and_then(|value| value.to_str().ok()) {
            put(name, text);
        }
    }
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    if let Some(key) = keys.next() {
        let key = key.to_str().unwrap_or_default();
        let usable =
            (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        if !usable || keys.next().is_some() {
            return Err(Problem::field(
                "Idempotency-Key",
                "must be one key of 1 to 255 visible ASCII characters",
            ));
        }
        put("idempotency-key", key);
    }
    Ok(metadata)
}

/// The `Last-Event-ID` header, if there is one.
///
/// # Errors
/// 400 if it is not text.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text =
        std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::field("Last-Event-ID", "is not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Encodes and decodes messages by their descriptors.
#[derive(Clone)]
pub struct DynamicCodec(pub MessageDescriptor);

/// Writes a message.
#[derive(Debug, Clone)]
pub struct DynamicEncoder;

/// Reads a message of this type.
#[derive(Clone)]
pub struct DynamicDecoder(MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder(self.0.clone())
    }
}

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.0.clone(), from)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
