//! Calls agents over A2A. Every call obeys the outbound policy, which refuses URLs into networks that are not
//! allowed.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use svc_core::{
    error::Chain,
    wire::outbound::{self, Outbound, Target},
};

use crate::domain::{
    a2a::{Call, Code, Envelope, Outcome, RpcError, Version, params_for},
    agent::{Agent, DeliveryMode},
    delivery::Attempt,
    message::NextMessage,
};

/// Header that names the A2A version of a request or answer.
const A2A_VERSION: &str = "a2a-version";

/// Calls agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AgentClient {
    pub outbound: Outbound,
    /// Maximum time for an agent to answer a message.
    pub message_timeout: Duration,
    /// Maximum time for an agent to answer a call about a task.
    pub task_timeout: Duration,
}

/// The outcome of a forwarded call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Forwarded {
    /// The agent's answer, in this version.
    Answered(Outcome, Version),
    /// The call has no equivalent in the agent's version, or the answer is not JSON-RPC.
    Failed(RpcError),
    Unreachable,
}

/// The URL at which an agent is called, and its A2A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub url: String,
    pub version: Version,
}

impl Endpoint {
    /// Returns the endpoint of an agent; `None` unless it is a reachable push agent.
    pub(crate) fn of(agent: &Agent) -> Option<Self> {
        let callable = agent.status.is_reachable() && agent.delivery_mode == DeliveryMode::Push;
        let url = agent.url.clone().filter(|_| callable)?;
        let version = Version::of_card(agent.card.as_ref(), &url);
        Some(Self { url, version })
    }
}

impl AgentClient {
    /// Sends a message to its agent, once.
    pub(crate) async fn send(&self, message: &NextMessage, endpoint: &Endpoint) -> Attempt {
        let call = Call::Send { params: message.params.clone(), ids: message.ids.clone() };
        let Ok((method, params)) = params_for(&call, message.version, endpoint.version) else {
            return Attempt::NotTranslatable;
        };
        let body = json!({ "jsonrpc": "2.0", "id": message.id, "method": method, "params": params });
        match self.call(endpoint, &body, self.message_timeout).await {
            Ok(answer) => Attempt::Answered {
                status: answer.status.as_u16(),
                outcome: Outcome::parse(&answer.body).ok(),
                retry_after: retry_after(&answer.headers),
            },
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "agent not reached");
                match error {
                    outbound::Error::Refused(outbound::Refused::Unresolved) => Attempt::NotSent,
                    outbound::Error::Refused(_) => Attempt::UrlRefused,
                    outbound::Error::NotSent(_) => Attempt::NotSent,
                    outbound::Error::NoAnswer(_) => Attempt::Broken,
                    outbound::Error::TimedOut => Attempt::TimedOut,
                    outbound::Error::TooLarge(_) => Attempt::TooLong,
                }
            }
        }
    }

    /// Passes a call about one of an agent's tasks to the agent, once.
    pub(crate) async fn forward(&self, agent: &Agent, envelope: &Envelope) -> Forwarded {
        let Some(endpoint) = Endpoint::of(agent) else { return Forwarded::Unreachable };
        let (method, params) = match params_for(&envelope.call, envelope.version, endpoint.version) {
            Ok(translated) => translated,
            Err(error) => return Forwarded::Failed(error),
        };
        let body = json!({ "jsonrpc": "2.0", "id": envelope.id, "method": method, "params": params });
        match self.call(&endpoint, &body, self.task_timeout).await {
            Ok(answer) => match Outcome::parse(&answer.body) {
                Ok(outcome) => Forwarded::Answered(outcome, endpoint.version),
                Err(error) => Forwarded::Failed(error),
            },
            Err(outbound::Error::TooLarge(_)) => {
                Forwarded::Failed(RpcError::new(Code::InvalidAgentResponse, "the agent's answer is too long"))
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), agent.id = %agent.id, "agent not reached");
                Forwarded::Unreachable
            }
        }
    }

    async fn call(
        &self,
        endpoint: &Endpoint,
        body: &Value,
        timeout: Duration,
    ) -> Result<outbound::Answer, outbound::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(A2A_VERSION, HeaderValue::from_static(endpoint.version.header()));
        let call = outbound::Call {
            method: Method::POST,
            target: Target::parse(&endpoint.url)?,
            headers,
            body: Bytes::from(body.to_string()),
            timeout,
        };
        self.outbound.call(call).await
    }
}

/// Parses `Retry-After` in seconds. A date is ignored, because the agent's clock may differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
