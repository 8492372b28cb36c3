//! A scripted model upstream for tests: a simulator of a whole Chat Completions server.
//!
//! It speaks the real wire format over a real socket. Each request takes the next queued [`Reply`], or the
//! one set with [`Upstream::always`]. It keeps the requests ([`Upstream::requests`]) and counts the answers
//! that are still being sent ([`Upstream::under_way`]). It does not check keys and knows no other path.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// A running upstream; it stops accepting when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<VecDeque<Reply>>,
    always: Mutex<Option<Reply>>,
    requests: Mutex<Vec<Received>>,
    under_way: AtomicUsize,
}

#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    /// The body; null if it is not JSON.
    pub body: Value,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    moves: Vec<Move>,
}

#[derive(Debug, Clone)]
enum Move {
    Send(Bytes),
    /// Sends the same bytes again and again.
    Repeat(Bytes, Duration),
    Wait(Duration),
    /// Holds the connection and sends nothing more.
    Hang,
    /// Breaks the connection without the end of the HTTP body.
    Abort,
}

impl Upstream {
    /// Starts an upstream on a free loopback port.
    #[expect(clippy::disallowed_methods, reason = "a test double has no lifecycle; it ends with its handle")]
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "scripted upstream failed");
            }
        });
        Ok(Self { address, shared, server: server.abort_handle() })
    }

    /// Returns a URL at which no server listens.
    pub async fn refusing() -> io::Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(base_url(listener.local_addr()?))
    }

    /// Returns the upstream's URL, as a client's `base_url`.
    pub fn base_url(&self) -> String {
        base_url(self.address)
    }

    /// Queues the reply for the next request without one.
    pub fn enqueue(&self, reply: Reply) {
        lock(&self.shared.queue).push_back(reply);
    }

    /// Sets the reply to every request for which none is queued.
    pub fn always(&self, reply: Reply) {
        *lock(&self.shared.always) = Some(reply);
    }

    /// All received requests, oldest first.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.shared.requests).clone()
    }

    /// Number of answers that are still being sent.
    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Reply {
    /// Starts a stream, for the methods below to continue.
    pub fn stream() -> Self {
        let headers = vec![(CONTENT_TYPE.as_str(), "text/event-stream; charset=utf-8".to_owned())];
        Self { status: 200, headers, moves: Vec::new() }.delta(&json!({ "role": "assistant", "content": "" }))
    }

    /// A complete answer with this text.
    pub fn text(text: &str) -> Self {
        Self::stream().say(text).finish("stop")
    }

    /// A refusal with this status and an error body of the API.
    pub fn refusal(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "error": { "message": message, "type": code, "code": code } });
        Self::body(status, "application/json", &body.to_string())
    }

    pub fn body(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![(CONTENT_TYPE.as_str(), content_type.to_owned())];
        Self { status, headers, moves: vec![Move::Send(body.to_owned().into())] }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Sends text, one chunk per word.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        text.split_inclusive(' ').fold(self, |reply, word| reply.delta(&json!({ "content": word })))
    }

    /// Sends reasoning, one chunk per word.
    #[must_use]
    pub fn reason(self, text: &str) -> Self {
        text.split_inclusive(' ').fold(self, |reply, word| reply.delta(&json!({ "reasoning_content": word })))
    }

    /// Calls a tool, its arguments in several chunks.
    #[must_use]
    pub fn call(self, index: usize, id: &str, name: &str, arguments: &Value) -> Self {
        let begin = json!({ "index": index, "id": id, "type": "function",
            "function": { "name": name, "arguments": "" } });
        let text: Vec<char> = arguments.to_string().chars().collect();
        text.chunks(5).fold(self.delta(&json!({ "tool_calls": [begin] })), |reply, piece| {
            let arguments: String = piece.iter().collect();
            let call = json!({ "index": index, "function": { "arguments": arguments } });
            reply.delta(&json!({ "tool_calls": [call] }))
        })
    }

    /// Ends the message with this reason, usage and the end mark.
    #[must_use]
    pub fn finish(self, reason: &str) -> Self {
        let words = self.moves.len();
        let usage = json!({ "prompt_tokens": 11, "completion_tokens": words, "total_tokens": 11 + words,
            "prompt_tokens_details": { "cached_tokens": 3 } });
        self.chunk(&json!([{ "index": 0, "delta": {}, "finish_reason": reason }]), &Value::Null)
            .chunk(&json!([]), &usage)
            .raw("data: [DONE]\n\n")
    }

    /// Reports an error inside the stream.
    #[must_use]
    pub fn error(self, code: &str, message: &str) -> Self {
        let error = json!({ "error": { "message": message, "code": code } });
        self.raw(&format!("data: {error}\n\n"))
    }

    /// Sends these bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &str) -> Self {
        self.moves.push(Move::Send(bytes.to_owned().into()));
        self
    }

    /// Waits before the next chunk.
    #[must_use]
    pub fn wait(mut self, delay: Duration) -> Self {
        self.moves.push(Move::Wait(delay));
        self
    }

    /// Sends nothing more and holds the connection.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.moves.push(Move::Hang);
        self
    }

    /// Breaks the connection off.
    #[must_use]
    pub fn abort(mut self) -> Self {
        self.moves.push(Move::Abort);
        self
    }

    /// Sends keep-alive comments without end.
    #[must_use]
    pub fn keep_alive(mut self, pace: Duration) -> Self {
        self.moves.push(Move::Repeat(Bytes::from_static(b": keep-alive\n\n"), pace));
        self
    }

    /// Sends one word without end.
    #[must_use]
    pub fn endless(mut self, word: &str, pace: Duration) -> Self {
        let chunk = chunk(&json!([{ "index": 0, "delta": { "content": word } }]), &Value::Null);
        self.moves.push(Move::Repeat(chunk, pace));
        self
    }

    /// Keeps only the first `n` chunks; then the body ends regularly.
    #[must_use]
    pub fn cut_after(mut self, n: usize) -> Self {
        self.moves.truncate(n);
        self
    }

    fn delta(self, delta: &Value) -> Self {
        self.chunk(&json!([{ "index": 0, "delta": delta, "finish_reason": null }]), &Value::Null)
    }

    fn chunk(mut self, choices: &Value, usage: &Value) -> Self {
        self.moves.push(Move::Send(chunk(choices, usage)));
        self
    }
}

fn chunk(choices: &Value, usage: &Value) -> Bytes {
    let chunk = json!({
        "id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "scripted", "choices": choices, "usage": usage,
    });
    format!("data: {chunk}\n\n").into()
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    lock(&shared.requests).push(Received { headers, body });
    let reply = lock(&shared.queue).pop_front().or_else(|| lock(&shared.always).clone());
    let reply = reply.unwrap_or_else(|| Reply::refusal(500, "unscripted", "no reply is scripted"));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.headers {
        if let Ok(value) = value.try_into() {
            response.headers_mut().append(name, value);
        }
    }
    let script = (reply.moves.into_iter().collect::<VecDeque<_>>(), UnderWay::begin(shared));
    *response.body_mut() = Body::from_stream(stream::unfold(script, |(mut moves, under_way)| async move {
        let item = loop {
            match moves.pop_front()? {
                Move::Send(bytes) => break Ok(bytes),
                Move::Repeat(bytes, pace) => {
                    tokio::time::sleep(pace).await;
                    moves.push_front(Move::Repeat(bytes.clone(), pace));
                    break Ok(bytes);
                }
                Move::Wait(delay) => tokio::time::sleep(delay).await,
                Move::Hang => std::future::pending().await,
                Move::Abort => {
                    // Waits, because the server writes earlier chunks to the socket only while the body is
                    // pending.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    break Err(io::Error::other("broken off by script"));
                }
            }
        };
        Some((item, (moves, under_way)))
    }));
    response
}

/// Counts an answer while it is being sent.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn begin(shared: Arc<Shared>) -> Self {
        shared.under_way.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

fn base_url(address: SocketAddr) -> String {
    format!("http://{address}/v1")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
