//! Tests the agent API, called by tenants and by agents' processes: enrolment, heartbeats and relayed
//! messages.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use steward::{api::Api, plane::Service};
use steward_proto::registry::v1::{
    AgentStatus, Beat, RuntimeState, StreamHeartbeatsRequest, agent_service_client::AgentServiceClient,
};
use suite_tests::{
    actors::{Tenant, refusal},
    cluster::{Builder, Cluster},
    eventually::eventually,
};
use svc_core::id::new_id;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use crate::fake_agent::{Dialect, FakeAgent};

/// A plane that may call agents on this machine, with short relay times.
fn plane() -> Builder {
    let settings = "outbound.mode = 'dev'\n[relay]\nlease = '1s'\nscan_period = '200ms'\nwait = '10s'\n\
                    first_retry = '100ms'\nlongest_retry = '500ms'";
    Cluster::builder().settings(Service::Registry, settings)
}

/// An agent's process: its id, its token, and the API called with that token.
struct Process {
    id: String,
    api: Api,
    token: String,
}

/// Creates an agent of a tenant and registers its process with the enrolment.
async fn enrol(cluster: &Cluster, tenant: &Tenant, name: &str, fake: &FakeAgent) -> Process {
    let made = tenant.api.post("/v1/agents", &json!({ "name": name })).await.unwrap();
    assert_eq!(made["agent"]["status"], "AGENT_STATUS_AWAITING_AGENT");
    let id = made["agent"]["agentId"].as_str().unwrap().to_owned();
    let by = |token: &str| Api::at(&cluster.url, token).unwrap();
    let newcomer = by(made["enrolment"]["secret"].as_str().unwrap());
    let registration =
        json!({ "deliveryMode": "DELIVERY_MODE_PUSH", "url": fake.url(), "card": fake.card() });
    let registered = newcomer.post("/v1/agents:register", &registration).await.unwrap();
    assert_eq!(registered["agent"]["status"], "AGENT_STATUS_ONLINE");
    let token = registered["secret"].as_str().unwrap().to_owned();
    // An enrolment registers one process only.
    assert_eq!(refusal(newcomer.post("/v1/agents:register", &registration).await).status, 401);
    Process { id, api: by(&token), token }
}

/// Sends one A2A request as an A2A client does.
async fn send(
    cluster: &Cluster,
    token: &str,
    agent: &str,
    version: &str,
    request: &Value,
) -> (StatusCode, HeaderMap, Value) {
    let url = format!("{}/v1/agents/{agent}/a2a", cluster.url);
    let mut post = reqwest::Client::new().post(url).bearer_auth(token).json(request);
    if !version.is_empty() {
        post = post.header("a2a-version", version);
    }
    let answer = post.send().await.unwrap();
    (answer.status(), answer.headers().clone(), answer.json().await.unwrap())
}

fn message_03(text: &str) -> Value {
    let message = json!({
        "role": "user", "messageId": format!("03 {text}"), "parts": [{ "kind": "text", "text": text }],
    });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "message/send", "params": { "message": message } })
}

fn message_10(text: &str) -> Value {
    let message =
        json!({ "role": "ROLE_USER", "messageId": format!("10 {text}"), "parts": [{ "text": text }] });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": { "message": message } })
}

async fn status(tenant: &Tenant, agent: &str) -> String {
    let agent = tenant.api.get(&format!("/v1/agents/{agent}")).await.unwrap();
    agent["agent"]["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_enrols_beats_and_answers_in_both_versions() {
    let mut cluster = plane().start().await;
    let (ada, mallory) = (cluster.tenant("ada").await, cluster.tenant("mallory").await);

    for dialect in [Dialect::V03, Dialect::V10] {
        let fake = FakeAgent::start(dialect);
        let agent = enrol(&cluster, &ada, &format!("{dialect:?}"), &fake).await;

        // The agent reports its health; its own tenant sees the status, another tenant does not see the
        // agent.
        for (rate, want) in [(0.0, "ONLINE"), (0.9, "DEGRADED"), (0.0, "ONLINE")] {
            let beat = json!({ "beat": { "errorRate": rate, "activeTasks": 1, "currentTask": "thinking" } });
            let answer = agent.api.post("/v1/agents:heartbeat", &beat).await.unwrap()["answer"].clone();
            let want = format!("AGENT_STATUS_{want}");
            assert_eq!(answer["status"], want);
            assert!(answer["nextBeatIn"].is_string(), "{answer}");
            assert_eq!(status(&ada, &agent.id).await, want);
        }
        let listed = ada.api.get("/v1/agents").await.unwrap();
        assert!(listed["agents"].as_array().unwrap().iter().any(|one| one["agentId"] == agent.id.as_str()));
        assert_eq!(mallory.api.get("/v1/agents").await.unwrap()["agents"], json!([]));
        assert_eq!(refusal(mallory.api.get(&format!("/v1/agents/{}", agent.id)).await).status, 404);

        // Sends beats over a gRPC stream too; the last one reports a wedged runtime.
        stream_beats(&mut cluster, &agent).await;
        assert_eq!(status(&ada, &agent.id).await, "AGENT_STATUS_DEGRADED");

        // Callers of both protocol versions get an answer from an agent that speaks one of them.
        let marker = format!("marker-{}", new_id().simple());
        let (code, headers, old) = send(&cluster, &ada.token, &agent.id, "", &message_03(&marker)).await;
        assert_eq!((code.as_u16(), &headers["a2a-version"]), (200, &"0.3".parse().unwrap()), "{old}");
        assert_eq!(old["result"]["parts"][0]["text"], format!("{marker} #1"), "{old}");
        let (code, headers, new) = send(&cluster, &ada.token, &agent.id, "1.0", &message_10(&marker)).await;
        assert_eq!((code.as_u16(), &headers["a2a-version"]), (200, &"1.0".parse().unwrap()), "{new}");
        assert_eq!(new["result"]["message"]["parts"][0]["text"], format!("{marker} #2"), "{new}");
        assert_eq!(fake.heard(), [marker.as_str(), marker.as_str()]);

        // The message is stored, and its sender can look it up.
        let found = cluster.search(&[&marker]).await;
        assert!(found[&marker].contains("row registry.relay_messages"), "{found:?}");
        let id = headers["x-steward-relay-message"].to_str().unwrap();
        let stored = ada.api.get(&format!("/v1/relay/messages/{id}")).await.unwrap()["message"].clone();
        assert_eq!((&stored["state"], &stored["attempts"]), (&json!("RELAY_STATE_DELIVERED"), &json!(1)));
        assert_eq!(refusal(mallory.api.get(&format!("/v1/relay/messages/{id}")).await).status, 404);

        // A repeated request gets the first answer and is not sent to the agent again. A request of another
        // tenant, or with a method of another A2A version than its header says, does not reach the agent.
        let (_, _, again) = send(&cluster, &ada.token, &agent.id, "1.0", &message_10(&marker)).await;
        assert_eq!(again, new);
        let foreign = send(&cluster, &mallory.token, &agent.id, "", &message_03("x")).await;
        assert_eq!((foreign.0.as_u16(), &foreign.2["code"]), (404, &json!("NOT_FOUND")));
        assert_eq!(foreign.1["content-type"], "application/problem+json");
        let wrong = send(&cluster, &ada.token, &agent.id, "", &message_10("x")).await;
        assert_eq!((wrong.0.as_u16(), &wrong.2["error"]["code"]), (400, &json!(-32601)));
        assert_eq!(fake.heard().len(), 2);
    }
    cluster.stop().await;
}

/// Sends two beats on one stream to the registry, the second one unhealthy.
async fn stream_beats(cluster: &mut Cluster, agent: &Process) {
    let url = cluster.process("registry").url();
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let (send, beats) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(beats));
    request.metadata_mut().insert("authorization", format!("Bearer {}", agent.token).parse().unwrap());
    let well = Beat::default();
    let unwell = Beat { runtime_state: RuntimeState::Wedged.into(), ..Beat::default() };
    send.send(StreamHeartbeatsRequest { beat: Some(well) }).await.unwrap();
    let mut answers = AgentServiceClient::new(channel).stream_heartbeats(request).await.unwrap().into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().answer.unwrap().status();
    assert_eq!(next().await, AgentStatus::Online);
    send.send(StreamHeartbeatsRequest { beat: Some(unwell) }).await.unwrap();
    assert_eq!(next().await, AgentStatus::Degraded);
}

#[tokio::test]
async fn an_accepted_message_outlives_its_registry_process() {
    let mut cluster = plane().replicas(Service::Registry, 2).start().await;
    let ada = cluster.tenant("ada").await;
    let fake = FakeAgent::start(Dialect::V03);
    let agent = enrol(&cluster, &ada, "worker", &fake).await;
    let _never = fake.hold("precious");

    // The sender disconnects once the agent has the message.
    let request = message_03("precious");
    tokio::select! {
        answered = send(&cluster, &ada.token, &agent.id, "", &request) => {
            panic!("answered too early: {answered:?}")
        }
        _ = eventually("the agent has it", Duration::from_secs(10), async || {
            (!fake.heard().is_empty()).then_some(())
        }) => {}
    }
    // Every registry is killed and started again.
    for name in ["registry", "registry-2"] {
        cluster.process(name).kill().await;
        cluster.process(name).run();
    }
    cluster.plane.until_ready(Duration::from_secs(30)).await.unwrap();
    let (text, _) = eventually("its answer", Duration::from_secs(30), async || {
        // A request with the same message id is the same message.
        let (code, _, answer) = send(&cluster, &ada.token, &agent.id, "", &request).await;
        (code == 200).then(|| answer["result"]["parts"][0]["text"].clone())
    })
    .await;
    assert_eq!(text, "precious #2");
    assert_eq!(fake.heard(), ["precious", "precious"], "once for each process that delivered it");
    cluster.stop().await;
}
