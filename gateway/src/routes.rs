//! The routes that are not in the contract: A2A, health for load balancers, the API's description.

pub(crate) mod a2a;
pub(crate) mod health;
pub(crate) mod openapi;

use axum::response::{IntoResponse, Response};
use http::Method;

use crate::problem::Problem;

/// Refuses a method that a route of this module does not serve. The answer allows GET and HEAD; a route that
/// serves another method has its own fallback.
pub(crate) async fn method_not_allowed() -> Response {
    Problem::method_not_allowed(&[Method::GET, Method::HEAD]).into_response()
}
