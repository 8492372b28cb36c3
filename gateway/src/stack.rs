//! Everything a request passes, outermost first.

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};

use crate::{
    config::Origin,
    door::{self, a2a::A2aDoor, health::Readiness},
    layer::{access_log, cors, problems, request_id, trace},
    metrics,
    transcode::Transcoder,
};

/// The public door: the routes that are not the contract's, and behind them the transcoder.
pub fn public(
    transcoder: Transcoder,
    readiness: Readiness,
    openapi: door::openapi::Document,
    a2a: Option<A2aDoor>,
    origins: &[Origin],
) -> Router {
    let router = Router::new()
        // Health asks nothing of anybody.
        .route("/healthz", get(door::health::healthz))
        .route("/readyz", get(door::health::readyz).with_state(readiness))
        // The contract, for people and tools.
        .route("/openapi.json", get(door::openapi::serve).with_state(openapi))
        // Agents' own protocol, which the registry reads.
        .merge(a2a.map_or_else(Router::new, A2aDoor::into_router))
        // A known path with another method is a problem like any other.
        .method_not_allowed_fallback(door::method_not_allowed)
        // Every other path is the contract's, or nobody's.
        .fallback(move |request| transcoder.clone().serve(request));
    layers(router, origins)
}

/// `layer` wraps what is there: the last one here is the first that a request meets.
fn layers(router: Router, origins: &[Origin]) -> Router {
    router
        // Answers browsers that ask whether a page of another origin may call.
        .layer(cors::layer(origins))
        // Writes problems, panics included, as application/problem+json.
        .layer(from_fn(problems::layer))
        // One log line and one measurement a request.
        .layer(from_fn_with_state(metrics::request_duration(), access_log::layer))
        // One span a request, under the caller's trace.
        .layer(from_fn(trace::layer))
        // Every request has an id, and every answer carries it.
        .layer(from_fn(request_id::layer))
}
