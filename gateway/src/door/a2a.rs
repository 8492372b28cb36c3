//! `POST /v1/agents/{agent_id}/a2a`: agents' own protocol, JSON-RPC over HTTP.
//!
//! Callers are admitted and limited as everywhere, and nothing else of the request is looked at: the body goes unread
//! to registry-svc, which answers in the caller's A2A version and says under which HTTP status. What is wrong with a
//! request as A2A is therefore a JSON-RPC error; what the plane refuses or cannot do is a problem, as at every door.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use prost_reflect::DynamicMessage;
use steward_proto::registry::v1::{RelayA2aRequest, RelayA2aResponse};

use crate::{
    Error,
    admit::{Admission, Admitted, JSON},
    layer::{access_log::Took, request_id::RequestId, trace},
    limit::concurrency::Stay,
    problem::Problem,
    table::{Route, Table},
    transcode::call::Upstreams,
};

/// By it either side says which version it speaks.
pub const A2A_VERSION: HeaderName = HeaderName::from_static("a2a-version");

/// The stored message that an answer is about.
pub const RELAY_MESSAGE: HeaderName = HeaderName::from_static("x-steward-relay-message");

/// Where it is served.
const PATH: &str = "/v1/agents/{agent_id}/a2a";

/// What it calls.
const RPC: &str = "steward.registry.v1.RelayService.RelayA2a";

/// A request's media types; 1.0 has one of its own.
const MEDIA_TYPES: [&str; 2] = [JSON, "application/a2a+json"];

/// What the registry may put into an answer's head.
const ANSWER_HEADERS: [HeaderName; 3] = [A2A_VERSION, RELAY_MESSAGE, header::RETRY_AFTER];

/// Passes A2A requests on to registry-svc.
#[derive(Debug, Clone)]
pub struct A2aDoor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    route: Arc<Route>,
    admission: Admission,
    upstreams: Upstreams,
}

impl A2aDoor {
    /// The door to this contract's relay; `None` if it has none.
    ///
    /// # Errors
    /// [`Error`] if the relay is not as this door expects it.
    pub fn new(table: &Table, admission: &Admission, upstreams: &Upstreams) -> Result<Option<Self>, Error> {
        let Some(route) = table.by_hand(RPC, Method::POST, PATH)? else { return Ok(None) };
        let (admission, upstreams) = (admission.clone(), upstreams.clone());
        Ok(Some(Self(Arc::new(Inner { route, admission, upstreams }))))
    }

    /// Its route.
    pub fn into_router(self) -> Router {
        let only_post = || async { Problem::method_not_allowed(&[Method::POST]).into_response() };
        Router::new().route(PATH, post(serve).fallback(only_post).with_state(self))
    }
}

async fn serve(
    State(door): State<A2aDoor>,
    agent: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // What is no text is no agent.
    let Ok(Path(agent)) = agent else { return Problem::no_route().into_response() };
    let (parts, body) = request.into_parts();
    trace::name_after(&door.0.route);
    let mut headers = HeaderMap::new();
    let answer = door.0.answer(agent, &parts, body, &mut headers).await;
    let mut response = answer.into_response();
    response.headers_mut().extend(headers);
    response.extensions_mut().insert(Took(door.0.route.clone()));
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
            self.admission.admit(&self.route.auth, Stay::Long, &parts.headers, headers).await?;
        let principal = caller.map(|(principal, _)| principal);
        if let Some(account) = principal.as_ref().and_then(|principal| principal.account_id) {
            tracing::Span::current().record("account.id", account.to_string());
        }
        let context = self.upstreams.context(&self.route, principal, &parts.headers, request_id)?;
        let request = RelayA2aRequest {
            agent_id,
            a2a_version: text(&parts.headers, &A2A_VERSION)?,
            content_type: text(&parts.headers, &header::CONTENT_TYPE)?,
            body: self.admission.read_body(&parts.headers, body, &MEDIA_TYPES).await?,
        };
        let mut message = DynamicMessage::new(self.route.rpc.input());
        message.transcode_from(&request).map_err(|error| defect(&error))?;
        let answer = self.upstreams.unary(&self.route, message, context).await?;
        written(answer.transcode_to().map_err(|error| defect(&error))?)
    }
}

/// A header that may be missing.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<String, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map_or(Ok(""), HeaderValue::to_str);
    match (value, values.next()) {
        (Ok(value), None) => Ok(value.to_owned()),
        _ => Err(Problem::field(name.as_str(), "must be one line of ASCII text")),
    }
}

/// The registry's answer as HTTP has it.
fn written(answer: RelayA2aResponse) -> Result<Response, Problem> {
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
        let value = answer.headers.get(name.as_str()).and_then(|value| HeaderValue::try_from(value).ok());
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

fn defect(error: &prost::DecodeError) -> Problem {
    tracing::error!(%error, "the relay's messages are not those of the contract");
    Problem::internal()
}
