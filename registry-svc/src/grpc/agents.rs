//! `AgentService`: agents, for their tenants and for the agents themselves.

use steward_proto::registry::v1::{
    self as proto,
    agent_service_server::{AgentService, AgentServiceServer},
};
use svc_core::{
    id::AgentId,
    wire::grpc::{Call, page_size, parts},
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert,
    heartbeats::{BeatHandler, BeatReplies, sender},
};
use crate::{
    app::{agents::Agents, register::Register},
    domain::agent::Registration,
};

#[derive(Debug, Clone)]
pub(crate) struct AgentHandler {
    pub agents: Agents,
    pub register: Register,
    pub beats: BeatHandler,
}

impl AgentHandler {
    pub(crate) fn into_server(self) -> AgentServiceServer<Self> {
        AgentServiceServer::new(self)
    }
}

fn agent_id(text: &str) -> Result<AgentId, Status> {
    Ok(AgentId::parse("agent_id", text)?)
}

#[tonic::async_trait]
impl AgentService for AgentHandler {
    async fn create_agent(
        &self,
        request: Request<proto::CreateAgentRequest>,
    ) -> Result<Response<proto::CreateAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (agent, enrolment) = self.agents.create(call.principal(), request.into(), &call.once()?).await?;
        Ok(Response::new(proto::CreateAgentResponse {
            agent: Some(agent.into()),
            enrolment: Some(enrolment.into()),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<proto::GetAgentRequest>,
    ) -> Result<Response<proto::GetAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let agent = self.agents.get(call.principal(), agent_id(&request.agent_id)?).await?;
        Ok(Response::new(proto::GetAgentResponse { agent: Some(agent.into()) }))
    }

    async fn list_agents(
        &self,
        request: Request<proto::ListAgentsRequest>,
    ) -> Result<Response<proto::ListAgentsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (status, size) = (convert::agents::parse_status(request.status()), page_size(request.page_size)?);
        let page = self.agents.list(call.principal(), status, size, &request.page_token).await?;
        let (agents, next_page_token) = parts(page);
        Ok(Response::new(proto::ListAgentsResponse { agents, next_page_token }))
    }

    async fn issue_enrolment(
        &self,
        request: Request<proto::IssueEnrolmentRequest>,
    ) -> Result<Response<proto::IssueEnrolmentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = agent_id(&request.agent_id)?;
        let enrolment = self.agents.issue_enrolment(call.principal(), id, &call.once()?).await?;
        Ok(Response::new(proto::IssueEnrolmentResponse { enrolment: Some(enrolment.into()) }))
    }

    async fn pause_agent(
        &self,
        request: Request<proto::PauseAgentRequest>,
    ) -> Result<Response<proto::PauseAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = agent_id(&request.agent_id)?;
        let agent = self.agents.pause(call.principal(), id, &call.once()?).await?;
        Ok(Response::new(proto::PauseAgentResponse { agent: Some(agent.into()) }))
    }

    async fn resume_agent(
        &self,
        request: Request<proto::ResumeAgentRequest>,
    ) -> Result<Response<proto::ResumeAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = agent_id(&request.agent_id)?;
        let agent = self.agents.resume(call.principal(), id, &call.once()?).await?;
        Ok(Response::new(proto::ResumeAgentResponse { agent: Some(agent.into()) }))
    }

    async fn remove_agent(
        &self,
        request: Request<proto::RemoveAgentRequest>,
    ) -> Result<Response<proto::RemoveAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = agent_id(&request.agent_id)?;
        let agent = self.agents.remove(call.principal(), id, &call.once()?).await?;
        Ok(Response::new(proto::RemoveAgentResponse { agent: Some(agent.into()) }))
    }

    async fn register_agent(
        &self,
        request: Request<proto::RegisterAgentRequest>,
    ) -> Result<Response<proto::RegisterAgentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let registration = Registration::try_from(request)?;
        let registered = self.register.register(call.principal(), registration, &call.once()?).await?;
        Ok(Response::new(registered.into()))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let answer = self.beats.take(sender(call.principal())?, request.beat).await?;
        Ok(Response::new(proto::HeartbeatResponse { answer: Some(answer) }))
    }

    type StreamHeartbeatsStream = BeatReplies;

    async fn stream_heartbeats(
        &self,
        request: Request<Streaming<proto::StreamHeartbeatsRequest>>,
    ) -> Result<Response<BeatReplies>, Status> {
        let call = Call::of(&request)?;
        let (sender, credential) = (sender(call.principal())?, call.credential()?);
        Ok(Response::new(self.beats.clone().replies(sender, credential, request.into_inner())))
    }
}
