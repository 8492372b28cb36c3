//! Tests how agents are created, enrolled, registered, paused and removed.

use steward_proto::registry::v1::{
    Agent, AgentStatus, CreateAgentRequest, DeliveryMode, Enrolment, GetAgentRequest, IssueEnrolmentRequest,
    ListAgentsRequest, PauseAgentRequest, RegisterAgentRequest, RegisterAgentResponse, RemoveAgentRequest,
    ResumeAgentRequest, WhoAmIRequest, agent_service_client::AgentServiceClient,
};
use svc_core::{id::AgentId, wire::outbound::Mode};
use tonic::{Code, Status};

use crate::{
    accounts::refusal,
    plane::{Bearing, Plane, keyed},
};

pub(crate) type Agents = AgentServiceClient<Bearing>;

impl Plane {
    pub(crate) async fn agents(&self, secret: &str) -> Agents {
        AgentServiceClient::new(self.bearer(secret).await)
    }

    /// Creates an agent of a tenant and registers it at `url`; returns the agent and its token's secret.
    pub(crate) async fn registered(&self, tenant: &mut Agents, url: &str) -> (Agent, String) {
        let (agent, enrolment) = create(tenant, "worker").await;
        let registered = register(&mut self.agents(&enrolment.secret).await, url).await.unwrap();
        assert_eq!(registered.agent.as_ref().unwrap().agent_id, agent.agent_id);
        (registered.agent.unwrap(), registered.secret)
    }
}

pub(crate) async fn create(tenant: &mut Agents, name: &str) -> (Agent, Enrolment) {
    let request = CreateAgentRequest { name: name.to_owned(), ..Default::default() };
    let made = tenant.create_agent(request).await.unwrap().into_inner();
    (made.agent.unwrap(), made.enrolment.unwrap())
}

async fn register(agent: &mut Agents, url: &str) -> Result<RegisterAgentResponse, Status> {
    let request = RegisterAgentRequest { url: url.to_owned(), ..Default::default() };
    agent.register_agent(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn status_of(tenant: &mut Agents, agent: &Agent) -> AgentStatus {
    let request = GetAgentRequest { agent_id: agent.agent_id.clone() };
    tenant.get_agent(request).await.unwrap().into_inner().agent.unwrap().status()
}

const URL: &str = "http://127.0.0.1:9/a2a";

#[tokio::test]
async fn an_enrolment_makes_one_process_the_agent() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, enrolment) = create(&mut tenant, "worker").await;
    assert_eq!((agent.status(), &agent.account_id), (AgentStatus::AwaitingAgent, &account));
    assert!(enrolment.expires_at.is_some());

    let process = plane.agents(&enrolment.secret).await;
    let attempts = (0..4).map(|_| {
        let mut process = process.clone();
        async move { register(&mut process, URL).await }
    });
    let answers = futures::future::join_all(attempts).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        assert_eq!(refusal(answer), (Code::Unauthenticated, "TOKEN_NOT_LIVE".to_owned()));
    }
    let registered = won.into_iter().next().unwrap().unwrap();
    let agent = registered.agent.unwrap();
    assert_eq!((agent.status(), agent.url.as_str()), (AgentStatus::Online, URL));

    let me = plane.accounts(&registered.secret).await.who_am_i(WhoAmIRequest {}).await.unwrap();
    let me = me.into_inner().principal.unwrap();
    assert_eq!((&me.subject_id, &me.account_id), (&agent.agent_id, &account));
    // The process registers again with its own token, and gets no other token.
    let again = register(&mut plane.agents(&registered.secret).await, "http://127.0.0.1:10/").await.unwrap();
    assert_eq!((again.secret.as_str(), again.agent.unwrap().url.as_str()), ("", "http://127.0.0.1:10/"));
}

#[tokio::test]
async fn a_new_enrolment_replaces_the_earlier_one_and_its_token() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, first) = create(&mut tenant, "worker").await;
    let request = || keyed("e1", IssueEnrolmentRequest { agent_id: agent.agent_id.clone() });
    let second = tenant.issue_enrolment(request()).await.unwrap().into_inner().enrolment.unwrap();
    let again = tenant.issue_enrolment(request()).await.unwrap().into_inner().enrolment.unwrap();
    assert_eq!(again, Enrolment { secret: String::new(), ..second.clone() });

    let lost = register(&mut plane.agents(&first.secret).await, URL).await;
    assert_eq!(refusal(lost).0, Code::Unauthenticated);
    let token = register(&mut plane.agents(&second.secret).await, URL).await.unwrap().secret;

    let request = IssueEnrolmentRequest { agent_id: agent.agent_id.clone() };
    let third = tenant.issue_enrolment(request).await.unwrap().into_inner().enrolment.unwrap();
    let mut old = plane.agents(&token).await;
    register(&mut old, URL).await.unwrap();
    register(&mut plane.agents(&third.secret).await, URL).await.unwrap();
    assert_eq!(refusal(register(&mut old, URL).await), (Code::Unauthenticated, "TOKEN_NOT_LIVE".to_owned()));
}

#[tokio::test]
async fn a_new_enrolment_registers_again_under_the_same_key() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, first) = create(&mut tenant, "worker").await;
    let start = || keyed("start", RegisterAgentRequest { url: URL.to_owned(), ..Default::default() });
    let answer = plane.agents(&first.secret).await.register_agent(start()).await.unwrap();
    let lost = answer.into_inner().secret;

    let request = IssueEnrolmentRequest { agent_id: agent.agent_id };
    let second = tenant.issue_enrolment(request).await.unwrap().into_inner().enrolment.unwrap();
    let mut process = plane.agents(&second.secret).await;
    let token = process.register_agent(start()).await.unwrap().into_inner().secret;
    register(&mut plane.agents(&token).await, URL).await.unwrap();
    for mut dead in [plane.agents(&lost).await, process] {
        assert_eq!(refusal(register(&mut dead, URL).await).0, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_repeated_create_makes_one_agent_with_one_secret() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let request = || keyed("c1", CreateAgentRequest { name: "worker".to_owned(), ..Default::default() });
    let first = tenant.create_agent(request()).await.unwrap().into_inner();
    let again = tenant.create_agent(request()).await.unwrap().into_inner();
    assert_eq!(again.agent, first.agent);
    assert!(again.enrolment.unwrap().secret.is_empty() && !first.enrolment.unwrap().secret.is_empty());
    let all = tenant.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn a_paused_agent_cannot_bring_itself_back() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, token) = plane.registered(&mut tenant, URL).await;
    let id = || agent.agent_id.clone();
    let resume = || ResumeAgentRequest { agent_id: id() };

    assert_eq!(
        refusal(tenant.resume_agent(resume()).await),
        (Code::FailedPrecondition, "AGENT_NOT_PAUSED".to_owned())
    );
    let paused = tenant.pause_agent(PauseAgentRequest { agent_id: id() }).await.unwrap().into_inner();
    assert_eq!(paused.agent.unwrap().status(), AgentStatus::Paused);
    let mut process = plane.agents(&token).await;
    let late = register(&mut process, URL).await;
    assert_eq!(refusal(late), (Code::FailedPrecondition, "AGENT_PAUSED".to_owned()));
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Paused);

    let resumed = tenant.resume_agent(resume()).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(resumed.status(), AgentStatus::AwaitingAgent);
    register(&mut process, URL).await.unwrap();
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::Online);
}

#[tokio::test]
async fn a_removed_agent_and_its_credentials_are_gone() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, token) = plane.registered(&mut tenant, URL).await;
    let request = IssueEnrolmentRequest { agent_id: agent.agent_id.clone() };
    let enrolment = tenant.issue_enrolment(request).await.unwrap().into_inner().enrolment.unwrap();

    let remove = || RemoveAgentRequest { agent_id: agent.agent_id.clone() };
    let removed = tenant.remove_agent(remove()).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(removed.status(), AgentStatus::Removed);
    assert_eq!(tenant.remove_agent(remove()).await.unwrap().into_inner().agent.unwrap(), removed);

    let get = GetAgentRequest { agent_id: agent.agent_id.clone() };
    assert_eq!(refusal(tenant.get_agent(get).await).0, Code::NotFound);
    assert!(tenant.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents.is_empty());
    for credential in [token, enrolment.secret] {
        let late = register(&mut plane.agents(&credential).await, URL).await;
        assert_eq!(refusal(late).0, Code::Unauthenticated);
    }
    let resume = ResumeAgentRequest { agent_id: agent.agent_id.clone() };
    assert_eq!(refusal(tenant.resume_agent(resume).await).0, Code::NotFound);
}

#[tokio::test]
async fn an_agent_of_another_tenant_is_not_found() {
    let plane = Plane::start().await;
    let (_, ours) = plane.tenant("ours").await;
    let (_, foreign) = plane.tenant("other").await;
    let (mut we, mut they) = (plane.agents(&ours).await, plane.agents(&foreign).await);
    let (agent, token) = plane.registered(&mut they, URL).await;
    let id = || agent.agent_id.clone();

    assert_eq!(refusal(we.get_agent(GetAgentRequest { agent_id: id() }).await).0, Code::NotFound);
    assert_eq!(refusal(we.pause_agent(PauseAgentRequest { agent_id: id() }).await).0, Code::NotFound);
    assert_eq!(refusal(we.remove_agent(RemoveAgentRequest { agent_id: id() }).await).0, Code::NotFound);
    assert_eq!(refusal(we.issue_enrolment(IssueEnrolmentRequest { agent_id: id() }).await).0, Code::NotFound);
    assert!(we.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents.is_empty());
    // An agent reads its own tenant's agents, and may change none.
    let mut process = plane.agents(&token).await;
    assert!(process.get_agent(GetAgentRequest { agent_id: id() }).await.is_ok());
    let pause = PauseAgentRequest { agent_id: id() };
    assert_eq!(refusal(process.pause_agent(pause).await).0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_registration_with_a_forbidden_url_is_refused() {
    let plane = Plane::with(|config| config.own.outbound.mode = Mode::Strict).await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, enrolment) = create(&mut tenant, "worker").await;
    let mut process = plane.agents(&enrolment.secret).await;
    for url in
        ["", "ftp://8.8.8.8/", "http://127.0.0.1:9/", "http://2130706433/", "http://[::ffff:10.0.0.1]/"]
    {
        assert_eq!(refusal(register(&mut process, url).await).0, Code::InvalidArgument, "{url}");
    }
    let inside = serde_json::json!({"url": "http://169.254.169.254/"});
    let card = |url: &serde_json::Value| prost_types::Struct {
        fields: [(
            "url".to_owned(),
            prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue(url["url"].as_str().unwrap().to_owned())),
            },
        )]
        .into(),
    };
    let request = RegisterAgentRequest {
        url: "https://8.8.8.8/a2a".to_owned(),
        card: Some(card(&inside)),
        ..Default::default()
    };
    assert_eq!(refusal(process.register_agent(request.clone()).await).0, Code::InvalidArgument);
    // A refused registration does not use the enrolment up.
    assert_eq!(status_of(&mut tenant, &agent).await, AgentStatus::AwaitingAgent);
    let good = card(&serde_json::json!({"url": "https://1.1.1.1/a2a"}));
    let request = RegisterAgentRequest { card: Some(good.clone()), ..request };
    let registered = process.register_agent(request).await.unwrap().into_inner();
    assert_eq!(registered.agent.unwrap().card, Some(good));
}

#[tokio::test]
async fn a_poll_agent_needs_no_url() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (_, enrolment) = create(&mut tenant, "worker").await;
    let request = RegisterAgentRequest { delivery_mode: DeliveryMode::Poll.into(), ..Default::default() };
    let mut process = plane.agents(&enrolment.secret).await;
    let agent = process.register_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((agent.delivery_mode(), agent.url.as_str()), (DeliveryMode::Poll, ""));
}

#[tokio::test]
async fn agents_of_an_account_are_limited_without_removed_ones() {
    let plane = Plane::with(|config| config.own.agents.max_per_account = 1).await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, _) = create(&mut tenant, "first").await;
    let request = CreateAgentRequest { name: "second".to_owned(), ..Default::default() };
    let full = tenant.create_agent(request.clone()).await;
    assert_eq!(refusal(full), (Code::FailedPrecondition, "LIMIT_REACHED".to_owned()));
    tenant.remove_agent(RemoveAgentRequest { agent_id: agent.agent_id }).await.unwrap();
    tenant.create_agent(request).await.unwrap();
}

#[tokio::test]
async fn changes_of_an_agent_take_an_idempotency_key() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (agent, token) = plane.registered(&mut tenant, URL).await;
    let (other, other_token) = plane.registered(&mut tenant, URL).await;
    let id = || agent.agent_id.clone();
    let pause = || keyed("pause", PauseAgentRequest { agent_id: id() });
    let resume = || keyed("resume", ResumeAgentRequest { agent_id: id() });
    let remove = || keyed("remove", RemoveAgentRequest { agent_id: id() });
    let register = || keyed("start", RegisterAgentRequest { url: URL.to_owned(), ..Default::default() });

    let mut process = plane.agents(&token).await;
    let first = process.register_agent(register()).await.unwrap().into_inner().agent;
    assert_eq!(process.register_agent(register()).await.unwrap().into_inner().agent, first);
    let (generation, _) = plane.generation_of(&agent.agent_id).await;
    assert_eq!(generation, 3, "created, registered, registered with the key");
    let elsewhere = RegisterAgentRequest { url: "http://127.0.0.1:10/".to_owned(), ..Default::default() };
    let reused = process.register_agent(keyed("start", elsewhere)).await;
    assert_eq!(refusal(reused), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".to_owned()));
    let second = plane.agents(&other_token).await.register_agent(register()).await.unwrap().into_inner();
    assert_eq!(second.agent.unwrap().agent_id, other.agent_id, "keys of two agents are separate");

    tenant.pause_agent(pause()).await.unwrap();
    tenant.resume_agent(resume()).await.unwrap();
    // A repetition changes nothing, and is answered with the present record.
    for answer in [
        tenant.pause_agent(pause()).await.unwrap().into_inner().agent,
        tenant.resume_agent(resume()).await.unwrap().into_inner().agent,
    ] {
        assert_eq!(answer.unwrap().status(), AgentStatus::AwaitingAgent);
    }
    let removed = tenant.remove_agent(remove()).await.unwrap().into_inner().agent;
    assert_eq!(tenant.remove_agent(remove()).await.unwrap().into_inner().agent, removed);
    let other = keyed("pause", PauseAgentRequest { agent_id: AgentId::new().to_string() });
    assert_eq!(
        refusal(tenant.pause_agent(other).await),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".to_owned())
    );
}

#[tokio::test]
async fn agents_are_listed_by_status() {
    let plane = Plane::start().await;
    let (_, secret) = plane.tenant("acme").await;
    let mut tenant = plane.agents(&secret).await;
    let (awaiting, _) = create(&mut tenant, "awaiting").await;
    let (online, _) = plane.registered(&mut tenant, URL).await;
    let (removed, _) = create(&mut tenant, "removed").await;
    tenant.remove_agent(RemoveAgentRequest { agent_id: removed.agent_id }).await.unwrap();
    for (status, want) in [
        (AgentStatus::Unspecified, vec![&online.agent_id, &awaiting.agent_id]),
        (AgentStatus::Online, vec![&online.agent_id]),
        (AgentStatus::AwaitingAgent, vec![&awaiting.agent_id]),
        (AgentStatus::Paused, vec![]),
        (AgentStatus::Removed, vec![]),
    ] {
        let request = ListAgentsRequest { status: status.into(), ..Default::default() };
        let page = tenant.list_agents(request).await.unwrap().into_inner().agents;
        assert_eq!(page.iter().map(|agent| &agent.agent_id).collect::<Vec<_>>(), want, "{status:?}");
    }
    let unknown = ListAgentsRequest { status: 99, ..Default::default() };
    assert_eq!(refusal(tenant.list_agents(unknown).await).0, Code::InvalidArgument);
}
