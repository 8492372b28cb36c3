//! `/openapi.json`, the description of the API.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::header;

/// The document as JSON, made once at start.
#[derive(Debug, Clone)]
pub(crate) struct Document(pub(crate) Bytes);

pub(crate) async fn serve(State(document): State<Document>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=300")];
    (headers, document.0).into_response()
}
