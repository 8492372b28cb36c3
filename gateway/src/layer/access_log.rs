//! One line and one measurement a request. Query and headers are not logged: they may hold what is private.

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

/// The route that a request took; in the extensions of its answer.
#[derive(Debug, Clone)]
pub struct Took(pub Arc<Route>);

/// Logs and measures the answer's head; a stream's end is logged by the stream.
pub async fn layer(State(duration): State<Histogram<f64>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    let code = response.extensions().get::<ProblemCode>().map(|code| code.0.as_str());
    // Paths that nobody serves must not become labels.
    let route =
        response.extensions().get::<Took>().map_or_else(String::new, |took| took.0.template.to_string());
    let labels = [
        KeyValue::new("http.request.method", label(&method)),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    duration.record(seconds, &labels);
    tracing::info!(%method, path, status, code, duration_ms = seconds * 1000.0, "request answered");
    response
}

/// Likewise for methods of somebody's own making.
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
