//! Routes that are not the contract's: agents' own protocol, health for balancers, the API's description.

pub mod a2a;
pub mod health;
pub mod openapi;

use axum::response::{IntoResponse, Response};
use http::Method;

use crate::problem::Problem;

/// The answer to a method that a hand-written route does not serve; they serve GET alone, if they do not say otherwise.
pub async fn method_not_allowed() -> Response {
    Problem::method_not_allowed(&[Method::GET, Method::HEAD]).into_response()
}
