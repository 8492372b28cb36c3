//! Erased means verified: what a tenant said is found before, and nowhere after.

use std::time::Duration;

use serde_json::{Value, json};
use suite_tests::{actors::refusal, cluster::Cluster, eventually::eventually};
use svc_core::id::new_id;

#[tokio::test]
async fn a_purged_session_is_nowhere_and_its_receipt_says_who_looked() {
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("forgotten").await;
    let (session, kept) = (tenant.session().await, tenant.session().await);
    let canary = format!("canary-{}", new_id().simple());
    tenant.say(&session, &format!("remember {canary}")).await;
    tenant.say(&session, &format!("write secret.txt {canary}")).await;
    tenant.say(&kept, "say something that stays").await;
    assert!(!cluster.places_of(&canary).await.is_empty(), "the search finds nothing even before");

    let answer = tenant.api.post(&format!("/v1/sessions/{session}:purge"), &json!({})).await.unwrap();
    let id = answer["purge"]["purgeId"].as_str().unwrap().to_owned();
    let committed = async || {
        let purge = tenant.api.get(&format!("/v1/purges/{id}")).await.unwrap()["purge"].clone();
        (purge["state"] == "PURGE_STATE_COMMITTED").then_some(purge)
    };
    let (purge, _) = eventually("a committed purge", Duration::from_secs(60), committed).await;

    assert_eq!(cluster.places_of(&canary).await, Vec::<String>::new());
    let custodians: Vec<&Value> = purge["receipt"]["custodians"]
        .as_array()
        .unwrap()
        .iter()
        .map(|custodian| &custodian["service"])
        .collect();
    for service in ["chat-svc", "sandbox-svc", "registry-svc"] {
        assert!(custodians.contains(&&json!(service)), "{service} is missing from {custodians:?}");
    }
    assert_eq!(refusal(tenant.api.get(&format!("/v1/sessions/{session}")).await).status, 404);
    let late =
        refusal(tenant.api.post(&format!("/v1/sessions/{session}/turns"), &json!({"input": "again"})).await);
    assert_eq!(late.status, 404);
    // Another session of the same tenant is as it was.
    assert_eq!(tenant.say(&kept, "say still here").await.text(), "still here");
    cluster.stop().await;
}
