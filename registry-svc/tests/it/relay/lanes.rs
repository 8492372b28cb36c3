//! Tests lanes: messages of one conversation keep their order, and no conversation waits for another.

use steward_proto::registry::v1::{PauseAgentRequest, ResumeAgentRequest};
use svc_core::error::retry_after_of;

use super::*;

#[tokio::test]
async fn a_message_is_retried_until_its_agent_listens() {
    let mut scene = Scene::of(FakeAgent::away(Dialect::V03), impatient).await;
    let sent = scene.say(Some("c"), "hi").await;
    assert_eq!(sent.status, 202);
    let waiting = eventually("it was tried again", async || {
        let message = scene.stored(&sent.message).await;
        (message.attempts >= 3).then_some(message)
    })
    .await;
    assert!(matches!(waiting.state(), RelayState::Queued | RelayState::Dispatched), "{waiting:?}");
    scene.fake.come();
    let done = scene.becomes(&sent.message, RelayState::Delivered).await;
    assert!(done.answer.contains("hi #1") && done.code.is_empty(), "{done:?}");
    assert_eq!(scene.fake.heard(), ["hi"]);
}

#[tokio::test]
async fn a_message_for_an_offline_agent_waits_until_it_registers() {
    let scene = Scene::start().await;
    let agent_id = || scene.agent.agent_id.clone();
    scene.tenant.clone().pause_agent(PauseAgentRequest { agent_id: agent_id() }).await.unwrap();
    let start = tokio::time::Instant::now();
    let sent = scene.say(None, "later").await;
    // The sender does not wait for an agent that is not reachable.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((sent.status, &sent.body["result"]["status"]["state"]), (202, &json!("submitted")));
    eventually("its lane rests", async || {
        (scene.count("SELECT count(*) FROM relay_lanes WHERE ready_at IS NULL").await == 1).then_some(())
    })
    .await;
    scene.tenant.clone().resume_agent(ResumeAgentRequest { agent_id: agent_id() }).await.unwrap();
    assert_eq!(scene.stored(&sent.message).await.state(), RelayState::Queued);
    scene.register_again().await;
    let done = scene.becomes(&sent.message, RelayState::Delivered).await;
    assert_eq!(done.attempts, 1);
}

#[tokio::test]
async fn messages_of_a_conversation_arrive_in_order_despite_failures() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), impatient).await;
    scene.fake.script("m0", [Act::Status(503), Act::Cut]);
    scene.fake.script("m2", [Act::Rubbish("ok".to_owned())]);
    scene.fake.script("m3", [Act::Cut]);
    scene.register_as_asking().await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(scene.say(Some("c"), &format!("m{n}")).await.message);
    }
    assert!(scene.fake.heard().is_empty());
    scene.register_again().await;
    let last = scene.becomes(&ids[5], RelayState::Delivered).await;
    assert_eq!(last.attempts, 1);
    assert_eq!(scene.fake.heard(), ["m0", "m0", "m0", "m1", "m2", "m3", "m3", "m4", "m5"]);
    // All attempts carry the same message.
    let arrived = scene.fake.arrived();
    assert!(arrived[..3].iter().all(|m| *m == arrived[0]) && arrived[0].message_id == "id of m0");
    assert_eq!(arrived[0].context_id.as_deref(), Some("c"));
    assert_eq!(scene.stored(&ids[2]).await.state(), RelayState::Failed);
    assert_eq!(scene.count("SELECT pending::bigint FROM relay_lanes").await, 0);
}

#[tokio::test]
async fn conversations_do_not_wait_for_each_other() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), impatient).await;
    let release = scene.fake.hold("stuck");
    let stuck = scene.say(Some("a"), "stuck").await;
    let behind = scene.say(Some("a"), "behind").await;
    assert_eq!((stuck.status, behind.status), (202, 202));
    assert_eq!(behind.body["result"]["status"]["state"], "submitted");
    for (context, text) in [(Some("b"), "other"), (None, "alone"), (None, "alone too")] {
        let sent = scene.say(context, text).await;
        scene.becomes(&sent.message, RelayState::Delivered).await;
    }
    assert_eq!(scene.stored(&behind.message).await.state(), RelayState::Queued);
    release.notify_one();
    scene.becomes(&behind.message, RelayState::Delivered).await;
    assert_eq!(scene.fake.heard().last().unwrap(), "behind");
}

#[tokio::test]
async fn the_number_of_messages_that_wait_for_an_agent_is_limited() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), |config| config.own.relay.max_waiting = 3).await;
    scene.register_as_asking().await;
    let mut waiting = Vec::new();
    for n in 0..3 {
        waiting.push(scene.say(Some("c"), &format!("m{n}")).await);
    }
    let mut relay = scene.relay.clone();
    let id = scene.agent.agent_id.clone();
    let full = post(&mut relay, &id, "", &message_03("more", None, "more")).await.unwrap_err();
    assert!(retry_after_of(&full).is_some());
    assert_eq!(refusal::<()>(Err(full)), (Code::ResourceExhausted, "AGENT_BUSY".to_owned()));
    // A message that was accepted before is answered as before.
    assert_eq!(scene.say(Some("c"), "m0").await, waiting[0]);
    let (other, _) = scene.plane.registered(&mut scene.tenant.clone(), &scene.fake.url()).await;
    let free = post(&mut relay, &other.agent_id, "", &message_03("free", None, "free")).await.unwrap();
    assert_eq!(free.status, 200);
    scene.register_again().await;
    scene.becomes(&waiting[2].message, RelayState::Delivered).await;
    assert_eq!(scene.say(None, "more").await.status, 200);
}

#[tokio::test]
async fn an_expired_message_is_reported_to_its_sender() {
    let mut scene = Scene::of(FakeAgent::away(Dialect::V03), |config| {
        impatient(config);
        config.own.relay.ttl = Duration::from_millis(500);
    })
    .await;
    let sent = scene.say(Some("c"), "too late").await;
    let expired = scene.becomes(&sent.message, RelayState::Expired).await;
    assert_eq!(expired.code, "EXPIRED");
    let again = scene.say(Some("c"), "too late").await;
    assert_eq!(again.body["error"]["data"][0]["reason"], "EXPIRED");
    let task = scene.post("", &about_task("tasks/get", &sent.message)).await;
    assert_eq!(task.body["result"]["status"]["state"], "failed");
    scene.fake.come();
    // The lane delivers the next message.
    let next = scene.say(Some("c"), "in time").await;
    scene.becomes(&next.message, RelayState::Delivered).await;
    assert_eq!(scene.fake.heard(), ["in time"]);
}

#[tokio::test]
async fn a_message_can_be_canceled_until_it_is_sent() {
    let scene = Scene::start().await;
    scene.register_as_asking().await;
    let [first, second] = [scene.say(Some("c"), "first").await, scene.say(Some("c"), "second").await];
    let canceled = scene.post("1.0", &about_task("CancelTask", &first.message)).await;
    assert_eq!(
        (canceled.status, &canceled.body["result"]["status"]["state"]),
        (200, &json!("TASK_STATE_CANCELED"))
    );
    let stored = scene.stored(&first.message).await;
    assert_eq!((stored.state(), stored.code.as_str()), (RelayState::Dropped, "CANCELED"));
    assert_eq!(scene.post("", &about_task("tasks/cancel", &first.message)).await.error(), (400, -32002));
    scene.register_again().await;
    scene.becomes(&second.message, RelayState::Delivered).await;
    assert_eq!(scene.fake.heard(), ["second"]);
}

#[tokio::test]
async fn messages_for_a_removed_agent_are_dropped() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), impatient).await;
    let release = scene.fake.hold("on its way");
    let sent = [scene.say(Some("c"), "on its way").await, scene.say(Some("c"), "waiting").await];
    let request = RemoveAgentRequest { agent_id: scene.agent.agent_id.clone() };
    scene.tenant.clone().remove_agent(request).await.unwrap();
    release.notify_one();
    for sent in &sent {
        let stored = scene.stored(&sent.message).await;
        assert_eq!((stored.state(), stored.code.as_str()), (RelayState::Dropped, "AGENT_REMOVED"));
    }
    assert_eq!(scene.count("SELECT pending::bigint FROM relay_lanes").await, 0);
}

#[tokio::test]
async fn a_dispatched_message_is_queued_again_when_its_agent_polls() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), impatient).await;
    let release = scene.fake.hold("hi");
    let sent = scene.say(Some("c"), "hi").await;
    scene.register_as_asking().await;
    assert_eq!(scene.stored(&sent.message).await.state(), RelayState::Queued);
    release.notify_one();
    let next = scene.say(Some("c"), "next").await;
    assert_eq!(next.status, 202);
    scene.register_again().await;
    scene.becomes(&next.message, RelayState::Delivered).await;
    let stored = scene.stored(&sent.message).await;
    assert_eq!(
        (stored.state(), stored.attempts),
        (RelayState::Delivered, 2),
        "the first answer was not its end"
    );
    assert!(stored.answer.contains("hi #2"), "{stored:?}");
    assert_eq!(scene.fake.heard(), ["hi", "hi", "next"]);
}

#[tokio::test]
async fn a_message_that_may_have_arrived_is_sent_a_few_times_only() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), |config| config.own.relay.max_arrivals = 3).await;
    scene.fake.script("cursed", (0..9).map(|_| Act::Cut));
    let sent = scene.say(Some("c"), "cursed").await;
    assert_eq!((sent.status, &sent.body["error"]["data"][0]["reason"]), (502, &json!("ATTEMPTS_EXHAUSTED")));
    let stored = scene.stored(&sent.message).await;
    assert_eq!((stored.state(), stored.attempts), (RelayState::Failed, 3));
    assert_eq!(scene.fake.heard(), ["cursed"; 3]);
    assert_eq!(scene.say(Some("c"), "next").await.status, 200);
}

#[tokio::test]
async fn an_agent_that_never_answers_leaves_slots_for_other_agents() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), |config| {
        impatient(config);
        (config.own.relay.max_dispatches, config.own.relay.max_dispatches_per_agent) = (3, 2);
    })
    .await;
    let mut held = Vec::new();
    let mut stuck = Vec::new();
    for n in 0..6 {
        held.push(scene.fake.hold(&format!("m{n}")));
        stuck.push(scene.say(None, &format!("m{n}")).await.message);
    }
    let well = FakeAgent::start(Dialect::V03);
    let (other, _) = scene.plane.registered(&mut scene.tenant.clone(), &well.url()).await;
    for n in 0..3 {
        let request = message_03(&format!("w{n}"), None, "well");
        let sent = post(&mut scene.relay.clone(), &other.agent_id, "", &request).await.unwrap();
        scene.becomes(&sent.message, RelayState::Delivered).await;
    }
    assert_eq!(scene.fake.heard().len(), 2);
    held.iter().for_each(|release| release.notify_one());
    for id in &stuck {
        scene.becomes(id, RelayState::Delivered).await;
    }
}

#[tokio::test]
async fn one_account_cannot_use_every_delivery_slot() {
    let scene = Scene::of(FakeAgent::start(Dialect::V03), |config| {
        impatient(config);
        let relay = &mut config.own.relay;
        (relay.max_dispatches, relay.max_dispatches_per_agent, relay.max_dispatches_per_account) = (3, 3, 2);
    })
    .await;
    let silent = FakeAgent::start(Dialect::V03);
    let (second, _) = scene.plane.registered(&mut scene.tenant.clone(), &silent.url()).await;
    let mut held = Vec::new();
    let mut stuck = Vec::new();
    for n in 0..4 {
        held.extend([scene.fake.hold(&format!("m{n}")), silent.hold(&format!("s{n}"))]);
        stuck.push(scene.say(None, &format!("m{n}")).await.message);
        let request = message_03(&format!("s{n}"), None, &format!("s{n}"));
        let sent = post(&mut scene.relay.clone(), &second.agent_id, "", &request).await.unwrap();
        stuck.push(sent.message);
    }
    let (_, secret) = scene.plane.tenant("neighbour").await;
    let well = FakeAgent::start(Dialect::V03);
    let (other, _) = scene.plane.registered(&mut scene.plane.agents(&secret).await, &well.url()).await;
    let mut relay = scene.relay_of(&secret).await;
    for n in 0..3 {
        let id = format!("w{n}");
        post(&mut relay, &other.agent_id, "", &message_03(&id, None, &id)).await.unwrap();
        eventually("a neighbour is answered", async || well.heard().contains(&id).then_some(())).await;
    }
    assert_eq!(scene.fake.heard().len() + silent.heard().len(), 2);
    held.iter().for_each(|release| release.notify_one());
    for id in &stuck {
        scene.becomes(id, RelayState::Delivered).await;
    }
}
