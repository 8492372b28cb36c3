//! Server-sent events: how a stream of messages lives and ends.
//!
//! A frame's `id` is the journal's cursor and its `data` the journal's bytes, unchanged; the gateway adds nothing
//! that a reconnecting client could mistake for an event. A stream ends in one of four ways: the service finished
//! it; it failed, which is a last `event: problem` without an id; its credential was revoked, likewise; or this
//! process is stopping, which is a comment and a plain close, so that the client comes back with its last id.

mod frame;

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header;
use opentelemetry::{KeyValue, metrics::UpDownCounter};
use prost_reflect::DynamicMessage;
use svc_core::wire::auth::{self, Credential};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::call::verdict;
use crate::{
    config::StreamsConfig,
    layer::request_id::RequestId,
    limit::concurrency::StreamPermit,
    metrics,
    problem::Problem,
    table::{Route, SseFields},
};

/// Media type of a stream.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// How a stream stands once its first message was waited for.
#[derive(Debug)]
pub enum First {
    /// There it is.
    Message(DynamicMessage),
    /// The stream ended without one.
    End,
    /// Nothing yet.
    NotYet,
}

/// What a stream needs while it lives.
#[derive(Debug)]
pub struct Live {
    /// Its times.
    pub config: StreamsConfig,
    /// Who reads it; asked about again and again.
    pub credential: Option<Credential>,
    /// Fires when this process stops.
    pub drain: CancellationToken,
    /// Its room among the open streams.
    pub permit: StreamPermit,
    /// The request that opened it.
    pub request_id: RequestId,
}

/// What happens next to a stream.
enum Step {
    Drain,
    Revoked(auth::Error),
    Message(DynamicMessage),
    End,
    Failed(Status),
    Silence,
}

/// Waits for the first message, so that an error known by then has a status of its own; not for ever, so that a
/// stream with nothing to say yet still begins.
///
/// # Errors
/// What the service said instead.
pub async fn first(upstream: &mut Streaming<DynamicMessage>, patience: Duration) -> Result<First, Status> {
    match tokio::time::timeout(patience, upstream.message()).await {
        Ok(Ok(Some(message))) => Ok(First::Message(message)),
        Ok(Ok(None)) => Ok(First::End),
        Ok(Err(status)) => Err(status),
        Err(_) => Ok(First::NotYet),
    }
}

/// The answer that carries `first` and everything after it.
#[must_use]
pub fn answer(
    route: Arc<Route>,
    fields: SseFields,
    first: First,
    upstream: Streaming<DynamicMessage>,
    live: Live,
) -> Response {
    let frames = frames(route, fields, first, upstream, live);
    let body = Body::from_stream(frames.map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE.as_str(), MEDIA_TYPE),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ];
    (headers, body).into_response()
}

fn frames(
    route: Arc<Route>,
    fields: SseFields,
    first: First,
    mut upstream: Streaming<DynamicMessage>,
    live: Live,
) -> impl Stream<Item = Bytes> + Send + 'static {
    // The request's span lasts as long as its answer.
    let span = tracing::Span::current();
    async_stream::stream! {
        let Live { config, credential, drain, permit, request_id } = live;
        let mut open = Open::new(span);
        let mut revoked = pin!(revoked(credential, config.recheck));
        let mut next = match first {
            First::Message(message) => Some(Step::Message(message)),
            First::End => Some(Step::End),
            First::NotYet => None,
        };
        let mut spoke = Instant::now();
        loop {
            let step = match next.take() {
                Some(step) => step,
                None => tokio::select! {
                    biased;
                    () = drain.cancelled() => Step::Drain,
                    refused = &mut revoked => Step::Revoked(refused),
                    message = upstream.message() => match message {
                        Ok(Some(message)) => Step::Message(message),
                        Ok(None) => Step::End,
                        Err(status) => Step::Failed(status),
                    },
                    () = sleep_until(spoke + config.keep_alive) => Step::Silence,
                },
            };
            let (frame, end) = match step {
                Step::Message(message) => match frame::event(&fields, &message) {
                    Ok(frame) => (frame, None),
                    Err(problem) => {
                        tracing::error!(rpc.method = route.rpc.full_name(), error = %problem, "stream cannot be framed");
                        (frame::problem(&Problem::internal(), request_id.as_str()), Some("problem"))
                    }
                },
                Step::Silence => (frame::comment("keep-alive"), None),
                Step::Drain => (frame::comment("draining, come back with your last id"), Some("drain")),
                Step::Revoked(refused) => {
                    (frame::problem(&Problem::from_error(&refused), request_id.as_str()), Some("revoked"))
                }
                Step::Failed(status) => {
                    (frame::problem(&verdict(&route, status), request_id.as_str()), Some("problem"))
                }
                Step::End => (Bytes::new(), Some("complete")),
            };
            if !frame.is_empty() {
                yield frame;
                spoke = Instant::now();
            }
            if let Some(end) = end {
                open.end = end;
                break;
            }
        }
        // Gives up the upstream's stream and the room, in this order.
        drop(upstream);
        drop(permit);
    }
}

/// Ends once the credential is no longer good.
async fn revoked(credential: Option<Credential>, period: Duration) -> auth::Error {
    let Some(credential) = credential else { return std::future::pending().await };
    loop {
        sleep(period).await;
        if let Err(refused) = credential.check_again().await {
            return refused;
        }
    }
}

/// An open stream, in the metrics; dropped early, its client went away.
struct Open {
    end: &'static str,
    since: Instant,
    open: UpDownCounter<i64>,
    span: tracing::Span,
}

impl Open {
    fn new(span: tracing::Span) -> Self {
        let open = metrics::streams_open();
        open.add(1, &[]);
        Self { end: "gone", since: Instant::now(), open, span }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.add(-1, &[]);
        metrics::streams_ended().add(1, &[KeyValue::new("end", self.end)]);
        let seconds = self.since.elapsed().as_secs_f64();
        self.span.in_scope(|| tracing::debug!(end = self.end, duration_seconds = seconds, "stream ended"));
    }
}
