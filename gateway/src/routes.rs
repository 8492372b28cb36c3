//! The routes that are not in the contract: A2A, health for load balancers, the API's description.

pub(crate) mod a2a;
pub(crate) mod health;
pub(crate) mod openapi;

use axum::response::{IntoResponse, Response};
use http::Method;

use crate::problem::Problem;

/// The answer to a method that a route here does not serve: unless a route sets its own answer, it serves
/// only GET.
pub(crate) async fn method_not_allowed() -> Response {
    Problem::method_not_allowed(&[Method::GET, Method::HEAD]).into_response()
}
