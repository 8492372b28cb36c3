//! Tests how the relay passes messages to push agents.

mod faults;
mod lanes;
mod policy;

use std::time::Duration;

use registry_svc::Config;
use serde_json::{Value, json};
use steward_proto::registry::v1::{
    Agent, DeliveryMode, GetRelayMessageRequest, RegisterAgentRequest, RegisterAgentResponse,
    RelayA2aRequest, RelayMessage, RelayState, RemoveAgentRequest, relay_service_client::RelayServiceClient,
};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::{
    accounts::refusal,
    agents::{Agents, create},
    fake_agent::{Act, Dialect, FakeAgent},
    plane::{Bearing, Plane},
};

type Relay = RelayServiceClient<Bearing>;

/// A tenant with an agent that registered at a simulator.
struct Scene {
    plane: Plane,
    fake: FakeAgent,
    secret: String,
    tenant: Agents,
    agent: Agent,
    token: String,
    relay: Relay,
}

/// The answer that a sender got.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    status: i32,
    body: Value,
    version: String,
    message: String,
}

impl Sent {
    /// Returns the text of the agent's answer, as a sender that uses A2A 0.3 gets it.
    fn text(&self) -> &str {
        self.body["result"]["parts"][0]["text"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Returns the HTTP status, and the code of the JSON-RPC error.
    fn error(&self) -> (i32, i64) {
        (self.status, self.body["error"]["code"].as_i64().unwrap_or_else(|| panic!("{self:?}")))
    }
}

/// Sets short periods and delays.
fn quick(config: &mut Config) {
    let relay = &mut config.own.relay;
    relay.lease = Duration::from_secs(1);
    relay.scan_period = Duration::from_millis(50);
    relay.expire_period = Duration::from_millis(50);
    relay.first_retry = Duration::from_millis(50);
    relay.longest_retry = Duration::from_millis(200);
}

/// Sets short periods, and lets a sender wait for 0.2 s only.
fn impatient(config: &mut Config) {
    quick(config);
    config.own.relay.wait = Duration::from_millis(200);
}

impl Scene {
    async fn of(fake: FakeAgent, change: impl FnOnce(&mut Config)) -> Self {
        let plane = Plane::with(|config| {
            quick(config);
            change(config);
        })
        .await;
        let (_, secret) = plane.tenant("acme").await;
        let mut tenant = plane.agents(&secret).await;
        let (_, enrolment) = create(&mut tenant, "worker").await;
        let registered = register(&mut plane.agents(&enrolment.secret).await, &fake).await.unwrap();
        let relay = RelayServiceClient::new(plane.bearer(&secret).await);
        let (agent, token) = (registered.agent.unwrap(), registered.secret);
        Self { plane, fake, secret, tenant, agent, token, relay }
    }

    async fn start() -> Self {
        Self::of(FakeAgent::start(Dialect::V03), |_| {}).await
    }

    /// Connects to the relay with another token.
    async fn relay_of(&self, secret: &str) -> Relay {
        RelayServiceClient::new(self.plane.bearer(secret).await)
    }

    /// Sends a text as an A2A 0.3 message, in a conversation if `context` names one.
    async fn say(&self, context: Option<&str>, text: &str) -> Sent {
        self.post("0.3", &message_03(&format!("id of {text}"), context, text)).await
    }

    async fn post(&self, version: &str, request: &Value) -> Sent {
        post(&mut self.relay.clone(), &self.agent.agent_id, version, request).await.unwrap()
    }

    async fn stored(&self, id: &str) -> RelayMessage {
        let request = GetRelayMessageRequest { relay_message_id: id.to_owned() };
        self.relay.clone().get_relay_message(request).await.unwrap().into_inner().message.unwrap()
    }

    /// Waits until the message has this state, and returns it.
    async fn becomes(&self, id: &str, state: RelayState) -> RelayMessage {
        eventually(&format!("message is {state:?}"), async || {
            let message = self.stored(id).await;
            (message.state() == state).then_some(message)
        })
        .await
    }

    /// Waits until `count` messages have arrived at the agent.
    async fn hears(&self, count: usize) {
        eventually("the agent hears it", async || (self.fake.arrived().len() >= count).then_some(())).await;
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.plane.db.owner("registry").await).await.unwrap()
    }

    /// Registers the agent's process again, as a push agent.
    async fn register_again(&self) {
        register(&mut self.plane.agents(&self.token).await, &self.fake).await.unwrap();
    }

    /// Registers the agent's process again, as a poll agent.
    async fn register_as_asking(&self) {
        let request = RegisterAgentRequest { delivery_mode: DeliveryMode::Poll.into(), ..Default::default() };
        self.plane.agents(&self.token).await.register_agent(request).await.unwrap();
    }
}

async fn register(agent: &mut Agents, fake: &FakeAgent) -> Result<RegisterAgentResponse, Status> {
    let card = steward_json(&fake.card());
    let delivery_mode = DeliveryMode::Push.into();
    let request = RegisterAgentRequest { delivery_mode, url: fake.url(), card: Some(card) };
    agent.register_agent(request).await.map(tonic::Response::into_inner)
}

fn steward_json(object: &Value) -> prost_types::Struct {
    let fields = object.as_object().unwrap().iter();
    prost_types::Struct { fields: fields.map(|(name, value)| (name.clone(), well_known(value))).collect() }
}

fn well_known(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(well_known).collect() })
        }
        Value::Object(_) => Kind::StructValue(steward_json(value)),
        other => panic!("no card of these tests has {other}"),
    };
    prost_types::Value { kind: Some(kind) }
}

async fn post(relay: &mut Relay, agent: &str, version: &str, request: &Value) -> Result<Sent, Status> {
    raw(relay, agent, version, request.to_string().into_bytes()).await
}

async fn raw(relay: &mut Relay, agent: &str, version: &str, body: Vec<u8>) -> Result<Sent, Status> {
    let request = RelayA2aRequest {
        agent_id: agent.to_owned(),
        a2a_version: version.to_owned(),
        content_type: "application/json".to_owned(),
        body: body.into(),
    };
    let answer = relay.relay_a2a(request).await?.into_inner();
    assert_eq!(answer.content_type, "application/json");
    let header = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
    Ok(Sent {
        status: answer.http_status,
        body: serde_json::from_slice(&answer.body).unwrap(),
        version: header("a2a-version"),
        message: header("x-steward-relay-message"),
    })
}

fn message_03(id: &str, context: Option<&str>, text: &str) -> Value {
    let mut message = json!({
        "kind": "message", "role": "user", "messageId": id, "parts": [{ "kind": "text", "text": text }],
    });
    if let Some(context) = context {
        message["contextId"] = context.into();
    }
    json!({ "jsonrpc": "2.0", "id": 1, "method": "message/send", "params": { "message": message } })
}

fn message_10(id: &str, text: &str) -> Value {
    let message = json!({ "role": "ROLE_USER", "messageId": id, "parts": [{ "text": text }] });
    json!({ "jsonrpc": "2.0", "id": "one", "method": "SendMessage", "params": { "message": message } })
}

fn about_task(method: &str, id: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": { "id": id } })
}

async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let timeout = Duration::from_secs(20);
    tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test]
async fn a_message_is_stored_before_it_is_sent() {
    let scene = Scene::start().await;
    let release = scene.fake.hold("hi");
    let (sent, ()) = tokio::join!(scene.say(None, "hi"), async {
        scene.hears(1).await;
        // The agent has the message and has not answered, and the message is stored already.
        let stored = "SELECT count(*) FROM relay_messages WHERE state = 'dispatched' AND attempts = 1";
        assert_eq!(scene.count(stored).await, 1);
        release.notify_one();
    });
    assert_eq!((sent.status, sent.text(), sent.version.as_str()), (200, "hi #1", "0.3"));
    assert_eq!((&sent.body["jsonrpc"], &sent.body["id"]), (&json!("2.0"), &json!(1)));

    let stored = scene.stored(&sent.message).await;
    assert_eq!((stored.state(), stored.attempts, stored.code.as_str()), (RelayState::Delivered, 1, ""));
    assert_eq!((&stored.agent_id, stored.message_id.as_str()), (&scene.agent.agent_id, "id of hi"));
    assert!(stored.settled_at.is_some() && stored.answer.contains("hi #1"));
    assert_eq!(scene.count("SELECT sum(pending) FROM relay_lanes").await, 0);
}

#[tokio::test]
async fn callers_and_agents_may_use_different_a2a_versions() {
    for dialect in [Dialect::V03, Dialect::V10] {
        let scene = Scene::of(FakeAgent::start(dialect), |_| {}).await;
        // No version counts as 0.3.
        for version in ["", "0.3", "0.2.5"] {
            let sent = scene.post(version, &message_03(version, Some("c"), "old")).await;
            assert_eq!((sent.status, sent.version.as_str()), (200, "0.3"), "{sent:?}");
            assert!(sent.text().starts_with("old #"), "{sent:?}");
            let result = &sent.body["result"];
            assert_eq!((&result["kind"], &result["role"]), (&json!("message"), &json!("agent")));
        }
        let sent = scene.post("1.0", &message_10("new", "new")).await;
        assert_eq!((sent.status, sent.version.as_str(), &sent.body["id"]), (200, "1.0", &json!("one")));
        let message = &sent.body["result"]["message"];
        assert_eq!((&message["role"], message.get("kind")), (&json!("ROLE_AGENT"), None), "{sent:?}");
        assert_eq!(message["parts"], json!([{ "text": "new #4" }]));

        // The agent answers with a task, and the caller reads that task.
        scene.fake.script("work", [Act::Task, Act::Task]);
        let old = scene.post("", &message_03("w1", None, "work")).await;
        assert_eq!(old.body["result"]["status"]["state"], "working", "{old:?}");
        let new = scene.post("1.0", &message_10("w2", "work")).await;
        assert_eq!(new.body["result"]["task"]["status"]["state"], "TASK_STATE_WORKING", "{new:?}");
        let asked = scene.post("1.0", &about_task("GetTask", "own")).await;
        assert_eq!(asked.body["result"]["status"]["state"], "TASK_STATE_WORKING", "{asked:?}");
        assert_eq!(scene.fake.asked(), ["own"]);
    }
}

#[tokio::test]
async fn requests_that_are_not_a2a_are_refused_and_not_stored() {
    let scene = Scene::start().await;
    let send = message_03("m", None, "x").to_string();
    for (version, body, want) in [
        ("", "", (400, -32700)),
        ("", "{\"jsonrpc\"", (400, -32700)),
        ("", "[]", (400, -32600)),
        ("", "{\"id\":1,\"method\":\"nope\"}", (400, -32601)),
        // Methods of the other version.
        ("", &message_10("m", "x").to_string(), (400, -32601)),
        ("1.0", &send, (400, -32601)),
        ("2.0", &send, (400, -32009)),
        ("0.3", &send.replace("text", "video"), (400, -32602)),
        ("0.3", &send.replace("message/send", "message/stream"), (400, -32004)),
        ("0.3", &about_task("tasks/get", "").to_string(), (400, -32602)),
    ] {
        let refused =
            raw(&mut scene.relay.clone(), &scene.agent.agent_id, version, body.into()).await.unwrap();
        assert_eq!(refused.error(), want, "{version:?} {body}");
    }
    let mut relay = scene.relay.clone();
    let long = message_03("m", None, &"x".repeat(1 << 20));
    let too_long = post(&mut relay, &scene.agent.agent_id, "", &long).await;
    assert_eq!(refusal(too_long), (Code::OutOfRange, "PAYLOAD_TOO_LARGE".to_owned()));
    assert_eq!(refusal(post(&mut relay, "nonsense", "", &json!({})).await).0, Code::InvalidArgument);
    let request = RelayA2aRequest {
        agent_id: scene.agent.agent_id.clone(),
        content_type: "text/plain".to_owned(),
        body: send.into_bytes().into(),
        ..Default::default()
    };
    assert_eq!(refusal(relay.relay_a2a(request).await).0, Code::InvalidArgument);
    assert_eq!(scene.count("SELECT count(*) FROM relay_messages").await, 0);
    assert_eq!(scene.count("SELECT count(*) FROM relay_lanes").await, 0);
}

#[tokio::test]
async fn the_same_message_sent_again_is_delivered_once() {
    let scene = Scene::start().await;
    let release = scene.fake.hold("once");
    let together = async { futures::future::join_all((0..5).map(|_| scene.say(Some("c"), "once"))).await };
    let (answers, ()) = tokio::join!(together, async {
        scene.hears(1).await;
        release.notify_one();
    });
    let later = scene.say(Some("c"), "once").await;
    assert_eq!((later.status, later.text()), (200, "once #1"));
    assert!(answers.iter().all(|answer| *answer == later), "{answers:?}");
    assert_eq!(scene.fake.heard(), ["once"]);

    // The message id is used for one message only.
    let other = scene.post("", &message_03("id of once", Some("c"), "something else")).await;
    assert_eq!(other.error(), (400, -32602));
    // The same id from another sender is another message.
    let (_, token) = scene.plane.registered(&mut scene.tenant.clone(), &scene.fake.url()).await;
    let mut neighbour = scene.relay_of(&token).await;
    let request = message_03("id of once", Some("c"), "once");
    let other = post(&mut neighbour, &scene.agent.agent_id, "", &request).await.unwrap();
    assert_eq!((other.status, other.text()), (200, "once #2"));
    assert_ne!(other.message, later.message);
}

#[tokio::test]
async fn a_sender_that_does_not_wait_gets_a_task() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), impatient).await;
    let release = scene.fake.hold("slow");
    let sent = scene.say(Some("c"), "slow").await;
    let task = &sent.body["result"];
    assert_eq!((sent.status, &task["kind"], &task["id"]), (202, &json!("task"), &json!(sent.message)));
    assert_eq!((&task["contextId"], &task["status"]["state"]), (&json!("c"), &json!("working")));

    let asked = scene.post("1.0", &about_task("GetTask", &sent.message)).await;
    assert_eq!((asked.status, &asked.body["result"]["status"]["state"]), (200, &json!("TASK_STATE_WORKING")));
    let late = scene.post("", &about_task("tasks/cancel", &sent.message)).await;
    assert_eq!(late.error(), (400, -32002));

    release.notify_one();
    scene.becomes(&sent.message, RelayState::Delivered).await;
    let done = scene.post("", &about_task("tasks/get", &sent.message)).await.body["result"].clone();
    assert_eq!((&done["status"]["state"], &done["id"]), (&json!("completed"), &json!(sent.message)));
    assert_eq!(done["status"]["message"]["parts"][0]["text"], "slow #1");
    assert!(scene.fake.asked().is_empty(), "the relay answers by itself");
}

#[tokio::test]
async fn an_agents_json_rpc_error_is_an_answer_other_errors_fail() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), |config| {
        config.own.outbound.max_answer_bytes = 10_000;
    })
    .await;
    scene.fake.script("no", [Act::Fail]);
    let refused = scene.say(None, "no").await;
    assert_eq!((refused.error(), &refused.body["id"]), ((200, -32050), &json!(1)));
    assert_eq!(scene.stored(&refused.message).await.state(), RelayState::Delivered);

    let elsewhere = FakeAgent::start(Dialect::V03);
    for (text, act, code) in [
        ("nonsense", Act::Rubbish("ok".to_owned()), "INVALID_ANSWER"),
        ("endless", Act::Rubbish("x".repeat(10_001)), "INVALID_ANSWER"),
        ("missing", Act::Status(404), "REJECTED"),
        ("broken", Act::Status(500), "REJECTED"),
        ("elsewhere", Act::Redirect(elsewhere.url()), "REJECTED"),
    ] {
        scene.fake.script(text, [act]);
        let sent = scene.say(None, text).await;
        assert_eq!(sent.error(), (502, -32603), "{text}");
        assert_eq!(sent.body["error"]["data"][0]["reason"], code, "{text}");
        let stored = scene.stored(&sent.message).await;
        assert_eq!((stored.state(), stored.code.as_str(), stored.attempts), (RelayState::Failed, code, 1));
    }
    assert!(elsewhere.heard().is_empty(), "redirects are not followed");
}

#[tokio::test]
async fn agents_and_messages_of_another_tenant_are_not_found() {
    let scene = Scene::start().await;
    let sent = scene.say(None, "mine").await;
    let (_, secret) = scene.plane.tenant("mallory").await;
    let mut foreign = scene.relay_of(&secret).await;
    let not_found = (Code::NotFound, "NOT_FOUND".to_owned());
    let id = scene.agent.agent_id.clone();
    for request in [message_03("m", None, "x"), about_task("tasks/get", &sent.message)] {
        assert_eq!(refusal(post(&mut foreign, &id, "", &request).await), not_found);
    }
    // The answer does not show that the body is wrong.
    assert_eq!(refusal(raw(&mut foreign, &id, "9", b"{".to_vec()).await), not_found);
    let request = GetRelayMessageRequest { relay_message_id: sent.message.clone() };
    assert_eq!(refusal(foreign.get_relay_message(request.clone()).await), not_found);

    // An agent may read only messages that it sent or that were sent to it.
    let neighbour = scene.plane.registered(&mut scene.tenant.clone(), &scene.fake.url()).await;
    let mut other = scene.relay_of(&neighbour.1).await;
    assert_eq!(refusal(other.get_relay_message(request.clone()).await), not_found);
    let mut target = scene.relay_of(&scene.token).await;
    target.get_relay_message(request).await.unwrap();

    scene.tenant.clone().remove_agent(RemoveAgentRequest { agent_id: id.clone() }).await.unwrap();
    let gone = post(&mut scene.relay.clone(), &id, "", &message_03("m", None, "x")).await;
    assert_eq!(refusal(gone), not_found);
    assert_eq!(scene.fake.heard(), ["mine"]);
}

#[tokio::test]
async fn a_task_call_to_an_unreachable_agent_fails() {
    let scene = Scene::of(FakeAgent::away(Dialect::V03), |_| {}).await;
    let asked = scene.post("", &about_task("tasks/get", "own")).await;
    assert_eq!(asked.error(), (503, -32603));
}
