//! Tests the outbound policy: which URLs agents may register, and which the relay calls.

use svc_core::wire::outbound::Mode;

use super::*;

/// Addresses that no agent may have in `strict` mode, in spellings that have bypassed other checks. A
/// simulator listens on `PORT`.
const FORBIDDEN: [&str; 33] = [
    "http://127.0.0.1:PORT/a2a",
    "http://127.1:PORT/a2a",
    "http://2130706433:PORT/a2a",
    "http://0x7f000001:PORT/a2a",
    "http://0x7f.1:PORT/a2a",
    "http://0177.0.0.1:PORT/a2a",
    "http://017700000001:PORT/a2a",
    "http://%31%32%37.0.0.1:PORT/a2a",
    "http://①②⑦.⓪.⓪.①:PORT/a2a",
    "http://127.0.0.1.:PORT/a2a",
    "http://localhost:PORT/a2a",
    "http://LOCALHOST:PORT/a2a",
    "http://[::1]:PORT/a2a",
    "http://[::ffff:127.0.0.1]:PORT/a2a",
    "http://[::ffff:7f00:1]:PORT/a2a",
    "http://0.0.0.0:PORT/a2a",
    "http://0:PORT/a2a",
    "http://[::]:PORT/a2a",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://ok@169.254.169.254/",
    "http://8.8.8.8@169.254.169.254/",
    "http://[fe80::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.100.100.200/",
];

fn strict(config: &mut Config) {
    quick(config);
    config.own.outbound.mode = Mode::Strict;
}

#[tokio::test]
async fn an_agent_cannot_register_a_forbidden_address() {
    let plane = Plane::with(strict).await;
    let (_, secret) = plane.tenant("acme").await;
    let (_, enrolment) = create(&mut plane.agents(&secret).await, "worker").await;
    let mut agent = plane.agents(&enrolment.secret).await;
    for url in FORBIDDEN {
        let request = RegisterAgentRequest { url: url.replace("PORT", "80"), ..Default::default() };
        let refused = agent.register_agent(request).await.expect_err(url);
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}: {refused:?}");
        assert!(refused.message().starts_with("url "), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_forbidden_address_in_a_record_is_never_dialled() {
    let fake = FakeAgent::start(Dialect::V03);
    let plane = Plane::with(strict).await;
    let (_, secret) = plane.tenant("acme").await;
    let (agent, _) = plane.registered(&mut plane.agents(&secret).await, "http://8.8.8.8/a2a").await;
    let mut relay = RelayServiceClient::new(plane.bearer(&secret).await);
    let mut db = plane.db.owner("registry").await;
    let port = fake.address.port().to_string();
    for url in FORBIDDEN {
        let url = url.replace("PORT", &port);
        sqlx::query("UPDATE agents SET url = $1").bind(&url).execute(&mut db).await.unwrap();
        let sent = post(&mut relay, &agent.agent_id, "", &message_03(&url, None, "x")).await.unwrap();
        assert_eq!(sent.error(), (502, -32603), "{url}");
        assert_eq!(sent.body["error"]["data"][0]["reason"], "URL_REFUSED", "{url}: {sent:?}");
        // A call about a task obeys the same policy.
        let asked = post(&mut relay, &agent.agent_id, "", &about_task("tasks/get", "own")).await.unwrap();
        assert_eq!(asked.error(), (503, -32603), "{url}");
    }
    assert!(fake.heard().is_empty() && fake.asked().is_empty());
}
