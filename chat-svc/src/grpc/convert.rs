//! Converts between the contract's types and the domain's. No conversion fails, because the server has
//! refused every request that breaks a field rule of the contract.

use steward_proto::chat::v1 as proto;
use svc_core::{
    id::TurnId,
    run::telemetry,
    wire::grpc::{structure, timestamp},
};

use crate::{
    app::sessions::NewSession,
    domain::{
        event::{Cursor, StoredEvent},
        message::{Role, StoredMessage},
        session::{InputPolicy, Session},
        turn::{Turn, TurnStatus},
    },
};

impl From<proto::CreateSessionRequest> for NewSession {
    fn from(request: proto::CreateSessionRequest) -> Self {
        let input_policy = match request.input_policy() {
            proto::InputPolicy::Unspecified | proto::InputPolicy::Queue => InputPolicy::Queue,
            proto::InputPolicy::Reject => InputPolicy::Reject,
            proto::InputPolicy::Interrupt => InputPolicy::Interrupt,
        };
        Self { title: request.title, input_policy, route: request.route }
    }
}

impl From<InputPolicy> for proto::InputPolicy {
    fn from(policy: InputPolicy) -> Self {
        match policy {
            InputPolicy::Queue => Self::Queue,
            InputPolicy::Reject => Self::Reject,
            InputPolicy::Interrupt => Self::Interrupt,
        }
    }
}

impl From<TurnStatus> for proto::TurnStatus {
    fn from(status: TurnStatus) -> Self {
        match status {
            TurnStatus::Queued => Self::Queued,
            TurnStatus::Running => Self::Running,
            TurnStatus::Completed => Self::Completed,
            TurnStatus::Failed => Self::Failed,
            TurnStatus::Canceled => Self::Canceled,
        }
    }
}

/// Returns the status that a listing is limited to; `None` is every status.
pub(super) fn listed_status(status: proto::TurnStatus) -> Option<TurnStatus> {
    match status {
        proto::TurnStatus::Unspecified => None,
        proto::TurnStatus::Queued => Some(TurnStatus::Queued),
        proto::TurnStatus::Running => Some(TurnStatus::Running),
        proto::TurnStatus::Completed => Some(TurnStatus::Completed),
        proto::TurnStatus::Failed => Some(TurnStatus::Failed),
        proto::TurnStatus::Canceled => Some(TurnStatus::Canceled),
    }
}

impl From<Role> for proto::MessageRole {
    fn from(role: Role) -> Self {
        match role {
            Role::User => Self::User,
            Role::Assistant => Self::Assistant,
            Role::Tool => Self::Tool,
        }
    }
}

impl From<Session> for proto::Session {
    fn from(session: Session) -> Self {
        Self {
            session_id: session.id.to_string(),
            title: session.title,
            input_policy: proto::InputPolicy::from(session.input_policy).into(),
            route: session.route,
            created_at: Some(timestamp(session.created_at)),
            updated_at: Some(timestamp(session.updated_at)),
        }
    }
}

impl From<Turn> for proto::Turn {
    fn from(turn: Turn) -> Self {
        let last_event_id = match turn.last_seq {
            0 => String::new(),
            seq => Cursor { turn_id: turn.id, seq }.to_string(),
        };
        let trace_id =
            turn.traceparent.as_deref().and_then(telemetry::trace_id).unwrap_or_default().to_owned();
        Self {
            turn_id: turn.id.to_string(),
            session_id: turn.session_id.to_string(),
            status: proto::TurnStatus::from(turn.standing.status).into(),
            cause: turn.cause,
            last_event_id,
            created_at: Some(timestamp(turn.created_at)),
            started_at: turn.standing.started_at.map(timestamp),
            ended_at: turn.standing.ended_at.map(timestamp),
            deadline_at: Some(timestamp(turn.standing.deadline_at)),
            trace_id,
            attempts: turn.standing.attempts,
        }
    }
}

impl From<StoredMessage> for proto::Message {
    fn from(stored: StoredMessage) -> Self {
        let parts = stored.message.parts.iter().filter_map(|part| match serde_json::to_value(part) {
            Ok(serde_json::Value::Object(fields)) => Some(structure(fields)),
            Ok(_) | Err(_) => None,
        });
        Self {
            message_id: stored.id.to_string(),
            session_id: stored.session_id.to_string(),
            turn_id: stored.turn_id.to_string(),
            role: proto::MessageRole::from(stored.message.role).into(),
            text: stored.message.text(),
            parts: parts.collect(),
            created_at: Some(timestamp(stored.created_at)),
        }
    }
}

/// Builds an event of the contract; its payload is the stored bytes.
pub(super) fn event(turn_id: TurnId, event: StoredEvent) -> proto::TurnEvent {
    proto::TurnEvent {
        id: Cursor { turn_id, seq: event.seq }.to_string(),
        kind: event.kind,
        payload: event.payload,
    }
}
