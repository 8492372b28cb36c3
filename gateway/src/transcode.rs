//! The transcoder: turns one HTTP request into one RPC and the answer back into HTTP. The same code serves
//! every route of the table.
//!
//! match ([`Table::find`]) → admit ([`crate::admit`]) → decode ([`decode`]) → call ([`call`]) → encode
//! ([`json`], [`sse`]). Every step fails with a [`Problem`]. The body is read after admission, and the
//! service is called after the whole request is decoded.

pub(crate) mod call;
mod decode;
mod json;
pub(crate) mod sse;
pub(crate) mod text;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header, request::Parts};
use prost_reflect::{DynamicMessage, ReflectMessage};
use tokio_util::sync::CancellationToken;

use self::call::{Upstreams, last_event_id, problem_of};
use crate::{
    admit::{Admission, Admitted, JSON},
    config::StreamsConfig,
    layer::{access_log::MatchedRoute, request_id::RequestId, trace},
    problem::Problem,
    table::{Answer, Matched, NoMatch, SseFields, Table},
};

/// Serves the routes of a table.
#[derive(Debug, Clone)]
pub(crate) struct Transcoder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    admission: Admission,
    upstreams: Upstreams,
    streams: StreamsConfig,
    drain: CancellationToken,
}

impl Transcoder {
    /// Builds a transcoder for the routes of `table`; firing `drain` ends its streams.
    pub(crate) fn new(
        table: Table,
        admission: Admission,
        upstreams: Upstreams,
        streams: StreamsConfig,
        drain: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { table, admission, upstreams, streams, drain }))
    }

    pub(crate) async fn serve(self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let matched = match self.0.table.find(&parts.method, parts.uri.path()) {
            Ok(matched) => matched,
            Err(NoMatch::Path) => return Problem::no_route().into_response(),
            Err(NoMatch::Method(allowed)) => return Problem::method_not_allowed(&allowed).into_response(),
        };
        trace::set_route(matched.route);
        let route = MatchedRoute(matched.route.clone());
        // The rate limit's headers are sent with every answer, also with a refusal.
        let mut headers = HeaderMap::new();
        let answer = self.0.answer(matched, &parts, body, &mut headers).await;
        let mut response = answer.into_response();
        response.headers_mut().extend(headers);
        response.extensions_mut().insert(route);
        response
    }
}

impl Inner {
    async fn answer(
        &self,
        matched: Matched<'_, '_>,
        parts: &Parts,
        body: Body,
        headers: &mut HeaderMap,
    ) -> Result<Response, Problem> {
        let route = matched.route;
        let request_id = parts.extensions.get::<RequestId>().ok_or_else(Problem::internal)?;
        let class = self.upstreams.class(route);
        let Admitted { caller, permit } =
            self.admission.admit(&route.auth, class, &parts.headers, headers).await?;
        let (principal, credential) = caller.unzip();
        let context = self.upstreams.context(route, principal.clone(), &parts.headers, request_id)?;
        let body = self.admission.read_body(&parts.headers, body, &[JSON]).await?;
        let input = decode::Input {
            values: &matched.values,
            query: parts.uri.query(),
            last_event_id: last_event_id(&parts.headers)?,
            body: &body,
        };
        let message = decode::decode(route, input)?;
        // Frees the body's memory: the message has its own copy.
        drop(body);
        match &route.answer {
            Answer::Json => {
                let answer = self.upstreams.unary(route, message, context).await?;
                json_answer(&answer)
            }
            Answer::Events(fields) => {
                let stream_permit = self.admission.stream(principal.as_ref())?;
                let mut upstream = self.upstreams.stream(route, message, context).await?;
                let first = sse::first(&mut upstream, self.streams.first_event).await;
                let first = first.map_err(|status| problem_of(route, status))?;
                // From here on the stream does not count as a request.
                drop(permit);
                let live = sse::Live {
                    config: self.streams.clone(),
                    credential,
                    drain: self.drain.clone(),
                    permit: stream_permit,
                    request_id: request_id.clone(),
                };
                Ok(sse::answer(route.clone(), SseFields::clone(fields), first, upstream, live))
            }
        }
    }
}

fn json_answer(message: &DynamicMessage) -> Result<Response, Problem> {
    let text = json::write(message).map_err(|error| {
        let message = message.descriptor();
        tracing::error!(message = message.full_name(), %error, "answer cannot be written as JSON");
        Problem::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text)
        .into_response())
}
