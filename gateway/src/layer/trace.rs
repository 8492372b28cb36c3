//! Opens one server span for each request, in the caller's own trace if it sent a W3C `traceparent`.

use axum::{extract::Request, middleware::Next, response::Response};
use svc_core::run::telemetry;
use tracing::{Instrument, Span, field::Empty};

use super::request_id::RequestId;
use crate::table::Route;

pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(RequestId::as_str).unwrap_or_default();
    let span = tracing::info_span!(
        "http.server",
        // The span is renamed once the route is known.
        otel.name = %request.method(),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        http.route = Empty,
        http.response.status_code = Empty,
        rpc.method = Empty,
        account.id = Empty,
        request.id = id,
        error.code = Empty,
    );
    telemetry::follow_headers(&span, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}

/// Renames the current span after the route of the request.
pub(crate) fn set_route(route: &Route) {
    let span = Span::current();
    let template = route.template.to_string();
    telemetry::rename(&span, &format!("{} {template}", route.method));
    span.record("http.route", &template);
    span.record("rpc.method", route.rpc.full_name());
}
