//! Turns the [`Problem`] of a failed request into its response, with the request id. A panic in a handler
//! becomes a problem too; the panic's text is only logged.

use std::any::Any;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use tracing::Span;

use super::request_id::RequestId;
use crate::problem::Problem;

/// Extension of a response: the code of its problem, for the log.
#[derive(Debug, Clone)]
pub(crate) struct ProblemCode(pub(crate) String);

pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let id = id.as_ref().map(RequestId::as_str).unwrap_or_default();
    let mut response = match std::panic::AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(panic = text(&*panic), "request handler panicked");
            Problem::internal().into_response()
        }
    };
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    Span::current().record("error.code", problem.code.as_ref());
    let code = ProblemCode(problem.code.to_string());
    let mut answer = problem.into_answer(id);
    answer.headers_mut().extend(std::mem::take(response.headers_mut()));
    *answer.extensions_mut() = std::mem::take(response.extensions_mut());
    answer.extensions_mut().insert(code);
    answer
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}
