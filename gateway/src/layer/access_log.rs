//! Writes one log line and one measurement for each request. Query and headers are not logged, because they
//! may contain private data.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use opentelemetry::{KeyValue, metrics::Histogram};
use tokio::time::Instant;

use super::problems::ProblemCode;
use crate::table::Route;

/// Extension of a response: the route of its request.
#[derive(Debug, Clone)]
pub(crate) struct MatchedRoute(pub(crate) Arc<Route>);

/// Logs and measures when the response begins. The end of a stream is logged in `transcode/sse.rs`.
pub(crate) async fn layer(State(duration): State<Histogram<f64>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    let code = response.extensions().get::<ProblemCode>().map(|code| code.0.as_str());
    // The label is the template of the route and not the path, because callers could send any number of
    // different paths.
    let route = response.extensions().get::<MatchedRoute>();
    let route = route.map_or_else(String::new, |route| route.0.template.to_string());
    let labels = [
        KeyValue::new("http.request.method", label(&method)),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    duration.record(seconds, &labels);
    tracing::info!(%method, path, status, code, duration_ms = seconds * 1000.0, "request answered");
    response
}

/// Returns the method as a label. Methods that HTTP does not define share one label, because callers could
/// make any number of them.
fn label(method: &http::Method) -> &'static str {
    match *method {
        http::Method::GET => "GET",
        http::Method::HEAD => "HEAD",
        http::Method::POST => "POST",
        http::Method::PUT => "PUT",
        http::Method::PATCH => "PATCH",
        http::Method::DELETE => "DELETE",
        http::Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
