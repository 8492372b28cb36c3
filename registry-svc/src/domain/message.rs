//! Relayed messages, as they are stored and delivered.

use chrono::{DateTime, Utc};
use serde_json::Value;
use svc_core::id::{AccountId, AgentId};
use uuid::Uuid;

use super::{
    a2a::{MessageIds, Outcome, Version},
    relay_state::State,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub id: Uuid,
    pub account_id: AccountId,
    /// The agent it is for.
    pub target_id: AgentId,
    pub sender_id: String,
    pub ids: MessageIds,
    pub state: State,
    /// Times it was dispatched.
    pub attempts: i32,
    /// Code of the problem that ended the message or queued it again last; empty if there was none, and after
    /// a delivery.
    pub code: String,
    /// The agent's answer, with its version.
    pub answer: Option<(Outcome, Version)>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// The time it ended.
    pub settled_at: Option<DateTime<Utc>>,
}

/// A message about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewMessage {
    pub id: Uuid,
    pub account_id: AccountId,
    /// The agent it is for.
    pub target_id: AgentId,
    pub sender_id: String,
    pub ids: MessageIds,
    /// The A2A version of `params`.
    pub version: Version,
    pub params: Value,
    pub request_hash: [u8; 32],
    /// The trace of the request that sent it.
    pub traceparent: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// The next message of a lane, as its deliverer reads it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NextMessage {
    pub id: Uuid,
    pub state: State,
    pub ids: MessageIds,
    /// The A2A version of `params`.
    pub version: Version,
    pub params: Value,
    /// The trace of the request that sent it.
    pub traceparent: Option<String>,
    /// Times it was dispatched.
    pub attempts: i32,
    /// Attempts that may have arrived.
    pub arrivals: i32,
    pub expires_at: DateTime<Utc>,
}

impl NewMessage {
    /// Returns the key of its lane: messages with the same key arrive in order.
    pub(crate) fn lane_key(&self) -> String {
        // The prefixes keep context ids and message ids apart.
        match &self.ids.context {
            Some(context) => format!("context:{context}"),
            None => format!("message:{}:{}", self.sender_id, self.ids.message),
        }
    }
}
