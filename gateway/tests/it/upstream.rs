//! A gRPC server that answers every method as the test says and records the calls.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use svc_core::wire::{assertion::Verifier, principal::Principal};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    server::{Grpc, ServerStreamingService},
    service::Routes,
};

/// The answer of a method: any number of messages, then an end or an error. A unary answer is one message.
pub(crate) type Answer = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

type Handler =
    Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>> + Send + Sync>;

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) metadata: MetadataMap,
    /// The caller in the gateway's assertion, which was verified.
    pub(crate) principal: Option<Principal>,
    pub(crate) message: Bytes,
    /// The call counts as open until every clone of this is dropped.
    pub(crate) open: OpenCall,
}

/// Counts one open call until it is dropped. A clone counts as one more.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<AtomicUsize>);

impl OpenCall {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Clone for OpenCall {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Call {
    pub(crate) fn decode<M: Message + Default>(&self) -> M {
        M::decode(self.message.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(|value| value.to_str().unwrap())
    }
}

/// The server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    open: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Upstream {
    /// Starts a server that answers every method with `handler`, and health checks by itself.
    pub(crate) async fn start<F, Fut>(verifiers: Vec<Verifier>, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(AtomicUsize::new(0));
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        let (remembered, counted) = (calls.clone(), open.clone());
        let answer = move |request: axum::extract::Request| {
            let (handler, calls, open) = (handler.clone(), remembered.clone(), counted.clone());
            let assertion =
                request.headers().get("x-steward-principal").and_then(|value| value.to_str().ok());
            let principal = assertion.and_then(|text| verifiers.iter().find_map(|v| v.verify(text).ok()));
            async move {
                let path = request.uri().path().to_owned();
                let service = Service { path, principal, handler, calls, open };
                Grpc::new(RawCodec)
                    .server_streaming(service, request.map(Body::new))
                    .await
                    .map(axum::body::Body::new)
            }
        };
        let (_reporter, health) = tonic_health::server::health_reporter();
        let mut routes = Routes::builder();
        routes.add_service(health);
        let router = routes.routes().into_axum_router().fallback(answer);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_routes(Routes::from(router))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self { address, calls, open, _server: server }
    }

    /// The recorded calls, without health checks.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Number of recorded calls.
    pub(crate) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// The only call so far.
    pub(crate) fn only_call(&self) -> Call {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0].clone()
    }

    /// Returns how many calls the handlers still hold.
    pub(crate) fn open_calls(&self) -> usize {
        // Subtracts the records: each holds a clone that counts as one.
        self.open.load(Ordering::SeqCst) - self.calls.lock().unwrap().len()
    }
}

/// Returns an answer that is one message.
pub(crate) fn one(message: &impl Message) -> Result<Answer, Status> {
    Ok(stream::iter([Ok(Bytes::from(message.encode_to_vec()))]).boxed())
}

/// Answers with the bytes of the request.
pub(crate) async fn echo(call: Call) -> Result<Answer, Status> {
    Ok(stream::iter([Ok(call.message.clone())]).boxed())
}

struct Service {
    path: String,
    principal: Option<Principal>,
    handler: Handler,
    calls: Arc<Mutex<Vec<Call>>>,
    open: Arc<AtomicUsize>,
}

impl ServerStreamingService<Bytes> for Service {
    type Response = Bytes;
    type ResponseStream = Answer;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Status>> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (metadata, _, message) = request.into_parts();
        let call = Call {
            path: self.path.clone(),
            metadata,
            principal: self.principal.clone(),
            message,
            open: OpenCall::new(&self.open),
        };
        self.calls.lock().unwrap().push(call.clone());
        let answer = (self.handler)(call);
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

/// A codec that passes the bytes of messages through.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
