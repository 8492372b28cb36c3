//! Answers with a stream of server-sent events.
//!
//! The `id` of a frame is the cursor of an event in the service's journal, and its `data` are the event's
//! bytes, unchanged. The gateway ends a stream in one of four cases:
//! - The service has finished it.
//! - The service failed, or its message cannot be framed: the last frame is `event: problem`, without an id.
//! - The caller's credential is no longer valid: the last frame is `event: problem`, without an id.
//! - This process stops: the last frame is a comment, so that the client reconnects with its last id.

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

use super::call::problem_of;
use crate::{
    admit::concurrency::StreamPermit,
    config::StreamsConfig,
    layer::request_id::RequestId,
    metrics,
    problem::Problem,
    table::{Route, SseFields},
};

pub(crate) const MEDIA_TYPE: &str = "text/event-stream";

/// State of a service's stream when the answer begins.
#[derive(Debug)]
pub(super) enum First {
    Message(DynamicMessage),
    /// The stream has ended without a message.
    End,
    NotYet,
}

/// Everything that a stream holds until it ends.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) config: StreamsConfig,
    /// The caller's credential, checked periodically; `None` if the method is public.
    pub(super) credential: Option<Credential>,
    /// Fires when this process stops.
    pub(super) drain: CancellationToken,
    pub(super) permit: StreamPermit,
    pub(super) request_id: RequestId,
}

enum Step {
    Drain,
    Revoked(auth::Error),
    Message(DynamicMessage),
    End,
    Failed(Status),
    Silence,
}

/// Waits for the first message for at most `wait`. An error in this time is answered with its own HTTP
/// status; after it the answer begins without a message.
///
/// # Errors
/// The status with which the service ended the stream.
pub(super) async fn first(upstream: &mut Streaming<DynamicMessage>, wait: Duration) -> Result<First, Status> {
    match tokio::time::timeout(wait, upstream.message()).await {
        Ok(Ok(Some(message))) => Ok(First::Message(message)),
        Ok(Ok(None)) => Ok(First::End),
        Ok(Err(status)) => Err(status),
        Err(_) => Ok(First::NotYet),
    }
}

/// Builds the response with `first` and every later message of `upstream`.
pub(super) fn answer(
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
    // Keeps the request's span open until the stream ends.
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
        let mut last_frame = Instant::now();
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
                    () = sleep_until(last_frame + config.keep_alive) => Step::Silence,
                },
            };
            let (frame, end) = match step {
                Step::Message(message) => match frame::event(&fields, &message) {
                    Ok(frame) => (frame, None),
                    Err(problem) => {
                        let rpc = route.rpc.full_name();
                        tracing::error!(rpc.method = rpc, error = %problem, "stream cannot be framed");
                        (frame::problem(&Problem::internal(), request_id.as_str()), Some("problem"))
                    }
                },
                Step::Silence => (frame::comment("keep-alive"), None),
                Step::Drain => (frame::comment("draining, come back with your last id"), Some("drain")),
                Step::Revoked(refused) => {
                    (frame::problem(&Problem::from_error(&refused), request_id.as_str()), Some("revoked"))
                }
                Step::Failed(status) => {
                    (frame::problem(&problem_of(&route, status), request_id.as_str()), Some("problem"))
                }
                Step::End => (Bytes::new(), Some("complete")),
            };
            if !frame.is_empty() {
                yield frame;
                last_frame = Instant::now();
            }
            if let Some(end) = end {
                open.end = end;
                break;
            }
        }
        // Ends the service's stream before another stream can use the permit.
        drop(upstream);
        drop(permit);
    }
}

/// Returns once the credential is no longer valid.
async fn revoked(credential: Option<Credential>, period: Duration) -> auth::Error {
    let Some(credential) = credential else { return std::future::pending().await };
    loop {
        sleep(period).await;
        if let Err(refused) = credential.check_again().await {
            return refused;
        }
    }
}

/// Counts an open stream in the metrics. Dropping it records the end; if `end` was not set, the client has
/// disconnected.
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
