//! `/openapi.json`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::header;

/// The document, written once at start.
#[derive(Debug, Clone)]
pub struct Document(pub Bytes);

/// Serves the document.
pub async fn serve(State(document): State<Document>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=300")];
    (headers, document.0).into_response()
}
