//! Who gets in, and that nobody gets into somebody else's.

use serde_json::json;
use suite_tests::{actors::refusal, cluster::Cluster};

#[tokio::test]
async fn a_caller_is_who_its_token_says_and_nobody_without_one() {
    let cluster = Cluster::builder().start().await;
    let (ada, bob) = (cluster.tenant("ada").await, cluster.tenant("bob").await);

    let who = ada.api.get("/v1/whoami").await.unwrap();
    assert_eq!(who["principal"]["accountId"], json!(ada.account));
    let nobody = refusal(cluster.anonymous().get("/v1/whoami").await);
    assert_eq!((nobody.status, nobody.code.as_str()), (401, "UNAUTHENTICATED"));

    // What is somebody else's is not there, rather than forbidden.
    let foreign = refusal(bob.api.get(&format!("/v1/accounts/{}", ada.account)).await);
    assert_eq!(foreign.status, 404);
    let operator = refusal(bob.api.post("/v1/accounts", &json!({ "name": "mine" })).await);
    assert_eq!((operator.status, operator.code.as_str()), (403, "PERMISSION_DENIED"));
    cluster.stop().await;
}
