//! Tests a plane in which one server or service is down: requests that do not need it still succeed.

use serde_json::json;
use suite_tests::{actors::refusal, cluster::Cluster};

#[tokio::test]
async fn turns_tools_and_tokens_work_without_redis() {
    let mut cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("patient").await;
    let session = tenant.session().await;
    tenant.say(&session, "run echo before").await.assert_whole();

    cluster.lose_redis().await;
    let seen = tenant.say(&session, "run echo without").await;
    seen.assert_whole();
    assert!(seen.text().contains("without"), "{}", seen.text());
    let newcomer = cluster.tenant("newcomer").await;
    assert_eq!(
        newcomer.api.get("/v1/whoami").await.unwrap()["principal"]["accountId"],
        json!(newcomer.account)
    );

    cluster.regain_redis().await;
    assert!(tenant.say(&session, "say back").await.text().contains("back"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_service_that_is_away_is_503_without_its_address() {
    let mut cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("caller").await;
    let session = tenant.session().await;
    cluster.process("chat").kill().await;
    let problem = refusal(tenant.api.get(&format!("/v1/sessions/{session}")).await);
    assert_eq!((problem.status, problem.retryable), (503, true));
    assert!(!problem.detail.contains("127.0.0.1") && !problem.detail.contains("chat"), "{}", problem.detail);

    cluster.process("chat").run();
    cluster.plane.until_ready(std::time::Duration::from_secs(30)).await.unwrap();
    tenant.api.get(&format!("/v1/sessions/{session}")).await.unwrap();
    cluster.stop().await;
}
