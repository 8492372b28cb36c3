//! `AgentService`: agents as their tenant and they themselves see them.

use steward_proto::registry::v1::{
    self as proto,
    agent_service_server::{AgentService, AgentServiceServer},
};
use svc_core::id::AgentId;
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller, convert, credential,
    heartbeats::{Answers, BeatDoor, sender},
    once, status,
};
use crate::{
    app::{agents::Agents, register::Register},
    domain::agent::{NewAgent, Registration},
};

/// Serves `AgentService`.
#[derive(Debug, Clone)]
pub struct AgentHandler {
    agents: Agents,
    register: Register,
    beats: BeatDoor,
}

impl AgentHandler {
    /// Serves these agents.
    #[must_use]
    pub fn new(agents: Agents, register: Register, beats: BeatDoor) -> Self {
        Self { agents, register, beats }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> AgentServiceServer<Self> {
        AgentServiceServer::new(self)
    }
}

fn agent_id(text: &str) -> Result<AgentId, Status> {
    AgentId::parse("agent_id", text).map_err(status)
}

#[tonic::async_trait]
impl AgentService for AgentHandler {
    async fn create_agent(
        &self,
        request: Request<proto::CreateAgentRequest>,
    ) -> Result<Response<proto::CreateAgentResponse>, Status> {
        let caller = caller(&request)?;
        let once = once("steward.registry.v1.AgentService/CreateAgent", &request)?;
        let request = request.into_inner();
        let new =
            NewAgent::parse(&request.name, &request.role, request.max_concurrent_tasks).map_err(status)?;
        let (agent, enrolment) = self.agents.create(&caller, new, &once).await.map_err(status)?;
        Ok(Response::new(proto::CreateAgentResponse {
            agent: Some(agent.into()),
            enrolment: Some(enrolment.into()),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<proto::GetAgentRequest>,
    ) -> Result<Response<proto::GetAgentResponse>, Status> {
        let (caller, id) = (caller(&request)?, agent_id(&request.get_ref().agent_id)?);
        let agent = self.agents.get(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::GetAgentResponse { agent: Some(agent.into()) }))
    }

    async fn list_agents(
        &self,
        request: Request<proto::ListAgentsRequest>,
    ) -> Result<Response<proto::ListAgentsResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.agents.list(&caller, size, &request.page_token).await.map_err(status)?;
        let (agents, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListAgentsResponse { agents, next_page_token }))
    }

    async fn issue_enrolment(
        &self,
        request: Request<proto::IssueEnrolmentRequest>,
    ) -> Result<Response<proto::IssueEnrolmentResponse>, Status> {
        let caller = caller(&request)?;
        let once = once("steward.registry.v1.AgentService/IssueEnrolment", &request)?;
        let id = agent_id(&request.get_ref().agent_id)?;
        let enrolment = self.agents.issue_enrolment(&caller, id, &once).await.map_err(status)?;
        Ok(Response::new(proto::IssueEnrolmentResponse { enrolment: Some(enrolment.into()) }))
    }

    async fn pause_agent(
        &self,
        request: Request<proto::PauseAgentRequest>,
    ) -> Result<Response<proto::PauseAgentResponse>, Status> {
        let (caller, id) = (caller(&request)?, agent_id(&request.get_ref().agent_id)?);
        let agent = self.agents.pause(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::PauseAgentResponse { agent: Some(agent.into()) }))
    }

    async fn resume_agent(
        &self,
        request: Request<proto::ResumeAgentRequest>,
    ) -> Result<Response<proto::ResumeAgentResponse>, Status> {
        let (caller, id) = (caller(&request)?, agent_id(&request.get_ref().agent_id)?);
        let agent = self.agents.resume(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::ResumeAgentResponse { agent: Some(agent.into()) }))
    }

    async fn remove_agent(
        &self,
        request: Request<proto::RemoveAgentRequest>,
    ) -> Result<Response<proto::RemoveAgentResponse>, Status> {
        let (caller, id) = (caller(&request)?, agent_id(&request.get_ref().agent_id)?);
        let agent = self.agents.remove(&caller, id).await.map_err(status)?;
        Ok(Response::new(proto::RemoveAgentResponse { agent: Some(agent.into()) }))
    }

    async fn register_agent(
        &self,
        request: Request<proto::RegisterAgentRequest>,
    ) -> Result<Response<proto::RegisterAgentResponse>, Status> {
        let caller = caller(&request)?;
        let registration = Registration::try_from(request.into_inner()).map_err(status)?;
        let registered = self.register.register(&caller, registration).await.map_err(status)?;
        Ok(Response::new(registered.into()))
    }
    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        let sender = sender(&caller(&request)?)?;
        let answer = self.beats.take(sender, request.into_inner().beat).await?;
        Ok(Response::new(proto::HeartbeatResponse { answer: Some(answer) }))
    }

    type StreamHeartbeatsStream = Answers;

    async fn stream_heartbeats(
        &self,
        request: Request<Streaming<proto::StreamHeartbeatsRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let sender = sender(&caller(&request)?)?;
        let credential = credential(&request)?;
        Ok(Response::new(self.beats.clone().answers(sender, credential, request.into_inner())))
    }
}
