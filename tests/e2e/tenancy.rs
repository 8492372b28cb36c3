//! Tests authentication and the separation of tenants.

use std::time::Duration;

use serde_json::json;
use suite_tests::{actors::refusal, cluster::Cluster, eventually::eventually};

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_token_names_its_caller_and_no_token_is_refused() {
    let cluster = Cluster::builder().start().await;
    let (ada, bob) = (cluster.tenant("ada").await, cluster.tenant("bob").await);

    let who = ada.api.get("/v1/whoami").await.unwrap();
    assert_eq!(who["principal"]["accountId"], json!(ada.account));
    let anonymous = refusal(cluster.anonymous().get("/v1/whoami").await);
    assert_eq!((anonymous.status, anonymous.code.as_str()), (401, "UNAUTHENTICATED"));

    // An object of another tenant is reported as absent, not as forbidden.
    let foreign = refusal(bob.api.get(&format!("/v1/accounts/{}", ada.account)).await);
    assert_eq!(foreign.status, 404);
    let operator = refusal(bob.api.post("/v1/accounts", &json!({ "name": "mine" })).await);
    assert_eq!((operator.status, operator.code.as_str()), (403, "PERMISSION_DENIED"));
    cluster.stop().await;
}

#[tokio::test]
async fn the_id_of_a_session_gives_no_access_to_it() {
    let cluster = Cluster::builder().start().await;
    let (ada, bob) = (cluster.tenant("ada").await, cluster.tenant("bob").await);
    let session = ada.session().await;
    // At this time sandbox-svc does not know the session yet: its owner has no sandbox.
    let taken = refusal(bob.api.post("/v1/sandboxes", &json!({ "sessionId": session })).await);
    assert_eq!((taken.status, taken.code.as_str()), (404, "NOT_FOUND"));
    let none = "00000000-0000-7000-8000-000000000000";
    let nothing = refusal(ada.api.post("/v1/sandboxes", &json!({ "sessionId": none })).await);
    assert_eq!((nothing.status, nothing.code.as_str()), (404, "NOT_FOUND"));

    let seen = ada.say(&session, "run echo mine").await;
    assert!(seen.all("tool.result")[0]["content"].as_str().unwrap().contains("mine"));
    let asked = ada.api.post(&format!("/v1/sessions/{session}:purge"), &json!({})).await.unwrap();
    let purge = format!("/v1/purges/{}", asked["purge"]["purgeId"].as_str().unwrap());
    let erased = async || {
        let now = ada.api.get(&purge).await.unwrap();
        (now["purge"]["state"] == "PURGE_STATE_COMMITTED").then_some(())
    };
    eventually("an unblocked erasure", TIMEOUT, erased).await;
    cluster.stop().await;
}
