//! Converts relayed requests, replies and messages.

use bytes::Bytes;
use steward_proto::registry::v1 as proto;
use svc_core::{
    error::Invalid,
    id::AgentId,
    wire::{deadline::Deadline, grpc::timestamp},
};

use crate::{
    app::relay::{Incoming, Reply},
    domain::{message::Message, relay_state::State},
};

/// Content type of a relayed answer.
const JSON: &str = "application/json";

/// `Retry-After` of a 503, in seconds.
const RETRY_AFTER: &str = "5";

pub(in crate::grpc) fn incoming(
    request: proto::RelayA2aRequest,
    deadline: Option<Deadline>,
) -> Result<Incoming, Invalid> {
    let kind = request.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // A2A 1.0 has its own content type; an empty one counts as JSON.
    if !matches!(kind.as_str(), "" | JSON | "application/a2a+json") {
        return Err(Invalid::new("content_type", "must be application/json"));
    }
    Ok(Incoming {
        agent: AgentId::parse("agent_id", &request.agent_id)?,
        version: request.a2a_version,
        body: request.body,
        deadline,
    })
}

impl From<Reply> for proto::RelayA2aResponse {
    fn from(reply: Reply) -> Self {
        let version = reply.version.map(|version| ("a2a-version", version.header().to_owned()));
        let message = reply.message.map(|id| ("x-steward-relay-message", id.to_string()));
        let advice = (reply.http_status == 503).then(|| ("retry-after", RETRY_AFTER.to_owned()));
        let headers = version.into_iter().chain(message).chain(advice);
        Self {
            http_status: reply.http_status.into(),
            content_type: JSON.to_owned(),
            body: Bytes::from(reply.body.to_string()),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

impl From<State> for proto::RelayState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Dispatched => Self::Dispatched,
            State::Delivered => Self::Delivered,
            State::Failed => Self::Failed,
            State::Expired => Self::Expired,
            State::Dropped => Self::Dropped,
        }
    }
}

impl From<Message> for proto::RelayMessage {
    fn from(message: Message) -> Self {
        let answer = message.answer.map(|(outcome, _)| outcome.to_stored().to_string());
        Self {
            relay_message_id: message.id.to_string(),
            agent_id: message.target_id.to_string(),
            sender_id: message.sender_id,
            message_id: message.ids.message,
            context_id: message.ids.context.unwrap_or_default(),
            state: proto::RelayState::from(message.state).into(),
            code: message.code,
            attempts: message.attempts,
            answer: answer.unwrap_or_default(),
            created_at: Some(timestamp(message.created_at)),
            expires_at: Some(timestamp(message.expires_at)),
            settled_at: message.settled_at.map(timestamp),
        }
    }
}
