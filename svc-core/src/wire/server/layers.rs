//! The layers through which every gRPC call passes. The functions below are in the order in which a call
//! meets them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
};
use opentelemetry::{KeyValue, global, metrics::Histogram};
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tracing::Instrument;

use super::ServerConfig;
use crate::{
    error::{self, ErrorKind, to_status},
    run::telemetry,
    wire::{
        auth::Authenticator,
        deadline::{Deadline, GRPC_TIMEOUT, parse_grpc_timeout},
        grpc::MethodName,
    },
};

/// Paths of the services that every server has. Their calls need no credential, and have no deadline, no span
/// and no limit.
const INFRASTRUCTURE: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// Path of the service that resolves tokens for all other services. Its calls have a limit of their own, so
/// that the calls of one tenant cannot keep every other tenant from authenticating.
const AUTHENTICATION: &str = "/steward.registry.v1.AuthService/";

#[derive(Clone)]
struct Limits {
    authenticator: Authenticator,
    request_timeout: Duration,
    in_flight: Arc<Semaphore>,
    authentications: Arc<Semaphore>,
}

pub(super) fn stack(router: Router, config: &ServerConfig, authenticator: Authenticator) -> Router {
    let limits = Limits {
        authenticator,
        request_timeout: config.request_timeout,
        in_flight: Arc::new(Semaphore::new(config.max_in_flight)),
        authentications: Arc::new(Semaphore::new(config.max_in_flight)),
    };
    let duration = global::meter("steward")
        .f64_histogram("rpc.server.call.duration")
        .with_unit("s")
        .with_description("time from a call's headers to its first answer")
        .build();
    // Each `layer` call wraps the earlier ones, so a call meets the last layer first.
    router
        // Authenticates the caller and checks that it may call.
        .layer(from_fn_with_state(limits.clone(), authenticate))
        // Ends unary calls at the caller's deadline or after this service's `request_timeout`, whichever is
        // earlier.
        .layer(from_fn_with_state(limits.clone(), deadline))
        // Refuses calls over the limit at once, without waiting.
        .layer(from_fn_with_state(limits, shed))
        // Counts the calls and measures the time until each answer.
        .layer(from_fn_with_state(duration, measure))
        // Opens a span for the call, as a child of the caller's span.
        .layer(from_fn(trace))
}

fn is_infrastructure(path: &str) -> bool {
    INFRASTRUCTURE.iter().any(|prefix| path.starts_with(prefix))
}

async fn trace(request: Request, next: Next) -> Response {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    if is_infrastructure(request.uri().path()) {
        return next.run(request).await;
    }
    let span = tracing::info_span!(
        "rpc.server",
        otel.name = %method,
        otel.kind = "server",
        rpc.system.name = "grpc",
        rpc.method = %method,
        rpc.response.status_code = tracing::field::Empty,
    );
    telemetry::follow_headers(&span, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    let code = code_of(&response);
    span.record("rpc.response.status_code", format!("{code:?}"));
    if code == Code::InvalidArgument {
        let bad = Status::from_header_map(response.headers()).and_then(|s| s.get_details_bad_request());
        let fields: Vec<_> = bad.into_iter().flat_map(|bad| bad.field_violations).map(|v| v.field).collect();
        tracing::debug!(parent: &span, ?fields, "request has wrong fields");
    }
    response
}

async fn measure(State(duration): State<Histogram<f64>>, request: Request, next: Next) -> Response {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let start = Instant::now();
    let response = next.run(request).await;
    let code = code_of(&response);
    // Unknown methods get one label, so that callers cannot create new label values.
    let method = if code == Code::Unimplemented { "_OTHER".to_owned() } else { method };
    let labels = [
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", method),
        KeyValue::new("rpc.response.status_code", format!("{code:?}")),
    ];
    duration.record(start.elapsed().as_secs_f64(), &labels);
    response
}

async fn shed(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if is_infrastructure(request.uri().path()) {
        return next.run(request).await;
    }
    let authenticates = request.uri().path().starts_with(AUTHENTICATION);
    let room = if authenticates { &limits.authentications } else { &limits.in_flight };
    match room.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => refuse(error::status(
            ErrorKind::ResourceExhausted,
            "OVERLOADED",
            "too many calls are running",
            ErrorKind::ResourceExhausted.row().retry_after,
            &[],
        )),
    }
}

async fn deadline(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let streams = limits.authenticator.methods().get(path).is_some_and(|method| method.server_streaming);
    if is_infrastructure(path) {
        return next.run(request).await;
    }
    let asked =
        request.headers().get(GRPC_TIMEOUT).and_then(|v| v.to_str().ok()).and_then(parse_grpc_timeout);
    let timeout = asked.map_or(limits.request_timeout, |asked| asked.min(limits.request_timeout));
    if streams {
        return next.run(request).await;
    }
    request.extensions_mut().insert(Deadline::after(timeout));
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refuse(error::status(
            ErrorKind::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "no answer within the deadline; the outcome is unknown",
            None,
            &[],
        )),
    }
}

async fn authenticate(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_infrastructure(path) {
        return next.run(request).await;
    }
    if limits.authenticator.methods().get(path).is_none() {
        return refuse(Status::unimplemented("no such method"));
    }
    let admitted = limits.authenticator.admit(path, request.headers()).await;
    let method = MethodName::from_path(path);
    let extensions = request.extensions_mut();
    extensions.insert(method);
    match admitted {
        Ok(proven) => {
            if let Some((principal, credential)) = proven {
                extensions.insert(principal);
                extensions.insert(credential);
            }
            next.run(request).await
        }
        Err(refused) => refuse(to_status(&refused)),
    }
}

fn refuse(status: Status) -> Response {
    status.into_http()
}

/// Returns the gRPC code of an answer. If only the trailers will have the code, returns `Ok`.
fn code_of(response: &Response) -> Code {
    response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}
