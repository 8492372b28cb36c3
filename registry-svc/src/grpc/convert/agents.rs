//! Converts agents, their registrations and their beats.

use steward_proto::registry::v1 as proto;
use svc_core::{
    error::Invalid,
    wire::grpc::{duration, timestamp},
};

use super::super::json;
use crate::{
    app::{agents::Enrolment, heartbeat::BeatReply, register::Registered},
    domain::{
        agent::{Agent, DeliveryMode, NewAgent, Registration, Vitals},
        beat::Beat,
        status::Status,
    },
};

impl From<Status> for proto::AgentStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::AwaitingAgent => Self::AwaitingAgent,
            Status::Online => Self::Online,
            Status::Degraded => Self::Degraded,
            Status::Offline => Self::Offline,
            Status::Paused => Self::Paused,
            Status::Removed => Self::Removed,
        }
    }
}

/// Reads the status that a filter names; `None` stands for every status.
pub(in crate::grpc) fn parse_status(status: proto::AgentStatus) -> Option<Status> {
    Status::ALL.into_iter().find(|known| proto::AgentStatus::from(*known) == status)
}

impl From<DeliveryMode> for proto::DeliveryMode {
    fn from(mode: DeliveryMode) -> Self {
        match mode {
            DeliveryMode::Push => Self::Push,
            DeliveryMode::Poll => Self::Poll,
        }
    }
}

impl From<proto::CreateAgentRequest> for NewAgent {
    fn from(request: proto::CreateAgentRequest) -> Self {
        let proto::CreateAgentRequest { name, role, max_concurrent_tasks } = request;
        Self { name, role, max_concurrent_tasks: max_concurrent_tasks.max(1) }
    }
}

impl TryFrom<proto::RegisterAgentRequest> for Registration {
    type Error = Invalid;

    fn try_from(request: proto::RegisterAgentRequest) -> Result<Self, Invalid> {
        let delivery_mode = match request.delivery_mode() {
            proto::DeliveryMode::Unspecified => None,
            proto::DeliveryMode::Push => Some(DeliveryMode::Push),
            proto::DeliveryMode::Poll => Some(DeliveryMode::Poll),
        };
        let card = request.card.map(|card| json::parse("card", card)).transpose()?;
        Self::parse(delivery_mode, &request.url, card)
    }
}

impl From<Agent> for proto::Agent {
    fn from(agent: Agent) -> Self {
        Self {
            agent_id: agent.id.to_string(),
            account_id: agent.account_id.to_string(),
            name: agent.name,
            role: agent.role,
            status: proto::AgentStatus::from(agent.status).into(),
            status_changed_at: Some(timestamp(agent.status_changed_at)),
            delivery_mode: proto::DeliveryMode::from(agent.delivery_mode).into(),
            url: agent.url.unwrap_or_default(),
            card: agent.card.map(json::write),
            max_concurrent_tasks: agent.max_concurrent_tasks,
            active_tasks: agent.vitals.active_tasks,
            error_rate: agent.vitals.error_rate,
            sample_error: agent.vitals.sample_error,
            current_task: agent.vitals.current_task,
            last_heartbeat_at: agent.last_heartbeat_at.map(timestamp),
            registered_at: agent.registered_at.map(timestamp),
            created_at: Some(timestamp(agent.created_at)),
        }
    }
}

impl From<Enrolment> for proto::Enrolment {
    fn from(enrolment: Enrolment) -> Self {
        Self {
            secret: enrolment.secret.map(|secret| secret.reveal().to_owned()).unwrap_or_default(),
            expires_at: enrolment.expires_at.map(timestamp),
        }
    }
}

impl From<Registered> for proto::RegisterAgentResponse {
    fn from(registered: Registered) -> Self {
        Self {
            agent: Some(registered.agent.into()),
            secret: registered.secret.map(|secret| secret.reveal().to_owned()).unwrap_or_default(),
            next_beat_in: Some(duration(registered.next_beat_in)),
        }
    }
}

impl TryFrom<Option<proto::Beat>> for Beat {
    type Error = Invalid;

    fn try_from(beat: Option<proto::Beat>) -> Result<Self, Invalid> {
        let beat = beat.ok_or_else(|| Invalid::new("beat", "is required"))?;
        Ok(Self {
            judges_itself: beat.judges_itself,
            vitals: Vitals {
                active_tasks: beat.active_tasks,
                error_rate: beat.error_rate,
                // A state that this version does not know counts as healthy.
                wedged: beat.runtime_state() == proto::RuntimeState::Wedged,
                judges_itself: false,
                sample_error: beat.sample_error,
                current_task: beat.current_task,
            },
        })
    }
}

impl From<BeatReply> for proto::BeatAnswer {
    fn from(answer: BeatReply) -> Self {
        Self {
            status: proto::AgentStatus::from(answer.status).into(),
            next_beat_in: Some(duration(answer.next_beat_in)),
        }
    }
}
