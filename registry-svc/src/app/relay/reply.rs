//! The relay's replies to callers.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::{
    a2a::{Code, Envelope, RpcError, StoredMessage, Version},
    message::Message,
    relay_state::State,
};

/// The reply to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub http_status: u16,
    pub body: Value,
    /// The caller's A2A version, if the request named a supported one.
    pub version: Option<Version>,
    /// The stored message that the reply is about.
    pub message: Option<Uuid>,
}

impl Reply {
    pub(super) fn error(error: &RpcError, version: Option<Version>) -> Self {
        let body = json!({ "jsonrpc": "2.0", "id": error.id, "error": error.member() });
        Self { http_status: error.code.http_status(), body, version, message: None }
    }

    /// Builds the reply to the sender: the agent's answer, a task while the message waits, or an error if it
    /// was not delivered.
    pub(super) fn to_sender(envelope: &Envelope, message: &Message) -> Self {
        let about = |http_status, body| Self {
            http_status,
            body,
            version: Some(envelope.version),
            message: Some(message.id),
        };
        let Some((outcome, from)) = &message.answer else {
            return match message.state {
                State::Queued | State::Dispatched | State::Delivered => {
                    let id = message.id.to_string();
                    about(202, stored(&id, message).queued_task(envelope))
                }
                State::Failed | State::Dropped | State::Expired => about(502, undelivered(envelope, message)),
            };
        };
        match outcome.answer(envelope, *from) {
            Ok(body) => about(200, body),
            Err(error) => Self { message: Some(message.id), ..Self::error(&error, Some(envelope.version)) },
        }
    }

    /// Builds the reply that shows a stored message as a task.
    pub(super) fn task(envelope: &Envelope, message: &Message) -> Self {
        let body = stored(&message.id.to_string(), message).task_of(envelope);
        Self { http_status: 200, body, version: Some(envelope.version), message: Some(message.id) }
    }
}

fn stored<'a>(id: &'a str, message: &'a Message) -> StoredMessage<'a> {
    let answer = message.answer.as_ref().map(|(outcome, version)| (outcome, *version));
    StoredMessage { id, ids: &message.ids, state: message.state, code: &message.code, answer }
}

fn undelivered(envelope: &Envelope, message: &Message) -> Value {
    let mut error = RpcError::new(Code::Unreachable, "the message was not delivered").member();
    error["data"] = json!([{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": message.code,
        "domain": "steward",
    }]);
    json!({ "jsonrpc": "2.0", "id": envelope.id, "error": error })
}
