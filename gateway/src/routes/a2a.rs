//! `POST /v1/agents/{agent_id}/a2a`: the A2A protocol between agents, JSON-RPC over HTTP.
//!
//! Callers are admitted and limited as on every route. The body is passed to registry-svc without being
//! parsed; registry-svc answers in the caller's A2A version and sets the HTTP status. An invalid A2A request
//! is therefore answered with a JSON-RPC error; a refusal or failure of the plane is answered with a problem.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use prost_reflect::DynamicMessage;
use steward_proto::registry::v1::{RelayA2aRequest, RelayA2aResponse};

use crate::{
    admit::{Admission, Admitted, JSON, concurrency::RequestClass},
    headers::{A2A_VERSION, RELAY_MESSAGE},
    layer::{access_log::MatchedRoute, request_id::RequestId, trace},
    problem::Problem,
    table::{self, Route, Table},
    transcode::call::Upstreams,
};

const PATH: &str = "/v1/agents/{agent_id}/a2a";

const RPC: &str = "steward.registry.v1.RelayService.RelayA2a";

/// Media types of a request; the second one is new in A2A 1.0.
const MEDIA_TYPES: [&str; 2] = [JSON, "application/a2a+json"];

/// Headers that registry-svc may set in the response.
const ANSWER_HEADERS: [&str; 3] = [A2A_VERSION, RELAY_MESSAGE, "retry-after"];

/// Passes A2A requests to registry-svc.
#[derive(Debug, Clone)]
pub(crate) struct A2aRoute(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    route: Arc<Route>,
    admission: Admission,
    upstreams: Upstreams,
}

impl A2aRoute {
    /// Returns `None` if the contract does not have the relay's method.
    ///
    /// # Errors
    /// Fails if the method cannot be served on this path.
    pub(crate) fn new(
        table: &Table,
        admission: &Admission,
        upstreams: &Upstreams,
    ) -> Result<Option<Self>, table::Error> {
        let Some(route) = table.hand_written(RPC, Method::POST, PATH)? else { return Ok(None) };
        let (admission, upstreams) = (admission.clone(), upstreams.clone());
        Ok(Some(Self(Arc::new(Inner { route, admission, upstreams }))))
    }

    pub(crate) fn into_router(self) -> Router {
        let only_post = || async { Problem::method_not_allowed(&[Method::POST]).into_response() };
        Router::new().route(PATH, post(serve).fallback(only_post).with_state(self))
    }
}

async fn serve(
    State(A2aRoute(inner)): State<A2aRoute>,
    agent: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // A path segment that is not UTF-8 names no agent.
    let Ok(Path(agent)) = agent else { return Problem::no_route().into_response() };
    let (parts, body) = request.into_parts();
    trace::set_route(&inner.route);
    let mut headers = HeaderMap::new();
    let answer = inner.answer(agent, &parts, body, &mut headers).await;
    let mut response = answer.into_response();
    response.headers_mut().extend(headers);
    response.extensions_mut().insert(MatchedRoute(inner.route.clone()));
    response
}

impl Inner {
    async fn answer(
        &self,
        agent_id: String,
        parts: &Parts,
        body: Body,
        headers: &mut HeaderMap,
    ) -> Result<Response, Problem> {
        let request_id = parts.extensions.get::<RequestId>().ok_or_else(Problem::internal)?;
        let Admitted { caller, permit: _permit } =
            self.admission.admit(&self.route.auth, RequestClass::Long, &parts.headers, headers).await?;
        let principal = caller.map(|(principal, _)| principal);
        let context = self.upstreams.context(&self.route, principal, &parts.headers, request_id)?;
        let request = RelayA2aRequest {
            agent_id,
            a2a_version: text(&parts.headers, A2A_VERSION)?,
            content_type: text(&parts.headers, header::CONTENT_TYPE.as_str())?,
            body: self.admission.read_body(&parts.headers, body, &MEDIA_TYPES).await?,
        };
        let mut message = DynamicMessage::new(self.route.rpc.input());
        message.transcode_from(&request).map_err(|error| defect(&error))?;
        let answer = self.upstreams.unary(&self.route, message, context).await?;
        response(answer.transcode_to().map_err(|error| defect(&error))?)
    }
}

/// Returns the text of a header; empty if the header is missing.
fn text(headers: &HeaderMap, name: &str) -> Result<String, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map_or(Ok(""), HeaderValue::to_str);
    match (value, values.next()) {
        (Ok(value), None) => Ok(value.to_owned()),
        _ => Err(Problem::field(name, "must be one line of ASCII text")),
    }
}

/// Turns registry-svc's answer into an HTTP response.
fn response(answer: RelayA2aResponse) -> Result<Response, Problem> {
    let status = u16::try_from(answer.http_status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let media_type = HeaderValue::try_from(answer.content_type).ok();
    let (Some(status), Some(media_type)) = (status, media_type) else {
        tracing::error!(http.response.status_code = answer.http_status, "relay's answer cannot be written");
        return Err(Problem::internal());
    };
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in ANSWER_HEADERS {
        let value = answer.headers.get(name).and_then(|value| HeaderValue::try_from(value).ok());
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

fn defect(error: &prost::DecodeError) -> Problem {
    tracing::error!(%error, "contract's relay messages differ from the compiled ones");
    Problem::internal()
}
