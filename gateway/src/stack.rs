//! The layers and routes of the public listener.

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};

use crate::{
    config::Origin,
    layer::{access_log, cors, problems, request_id, trace},
    metrics,
    routes::{self, a2a::A2aRoute, health::Readiness},
    transcode::Transcoder,
};

pub(crate) fn public(
    transcoder: Transcoder,
    readiness: Readiness,
    openapi: routes::openapi::Document,
    a2a: Option<A2aRoute>,
    origins: &[Origin],
) -> Router {
    let router = Router::new()
        // Serves health without a credential.
        .route("/healthz", get(routes::health::healthz))
        .route("/readyz", get(routes::health::readyz).with_state(readiness))
        // Serves the description of the API, also without a credential.
        .route("/openapi.json", get(routes::openapi::serve).with_state(openapi))
        // Serves A2A, which registry-svc parses.
        .merge(a2a.map_or_else(Router::new, A2aRoute::into_router))
        // Refuses a wrong method on one of the paths above.
        .method_not_allowed_fallback(routes::method_not_allowed)
        // Serves every other path: the contract's routes, or 404.
        .fallback(move |request| transcoder.clone().serve(request));
    layers(router, origins)
}

/// Adds the layers. Each `layer` call wraps the ones above it, so a request passes the last one first.
fn layers(router: Router, origins: &[Origin]) -> Router {
    router
        // Answers preflight requests of browsers.
        .layer(cors::layer(origins))
        // Writes problems and panics as application/problem+json.
        .layer(from_fn(problems::layer))
        // Writes one log line and one measurement for each request.
        .layer(from_fn_with_state(metrics::request_duration(), access_log::layer))
        // Opens one span for each request, in the caller's trace.
        .layer(from_fn(trace::layer))
        // Gives each request and its response an id.
        .layer(from_fn(request_id::layer))
}
