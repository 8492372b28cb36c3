//! Routes that are not the contract's: health for balancers, the API's description.

pub mod health;
pub mod openapi;

use axum::response::{IntoResponse, Response};
use http::Method;

use crate::problem::Problem;

/// The answer to a method that a hand-written route does not serve; they all serve GET alone.
pub async fn method_not_allowed() -> Response {
    Problem::method_not_allowed(&[Method::GET, Method::HEAD]).into_response()
}
