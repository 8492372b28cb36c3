//! Tests the operator commands that write to the database.

use secrecy::ExposeSecret;
use steward_proto::registry::v1::{CreateAccountRequest, ListAccountsRequest, WhoAmIRequest};
use svc_core::error::ServiceError;
use tonic::Code;

use crate::plane::Plane;

#[tokio::test]
async fn an_account_is_created_once_and_keeps_a_valid_token() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let first = operator.ensure_account_and_token("dev", None).await.unwrap();
    let again = operator.ensure_account_and_token("dev", Some(&first.secret)).await.unwrap();
    assert_eq!((again.account_id, again.token_id), (first.account_id, first.token_id));
    assert_eq!(again.secret.expose_secret(), first.secret.expose_secret());

    let lost = operator.ensure_account_and_token("dev", Some(&"stw_lost".into())).await.unwrap();
    assert_eq!(lost.account_id, first.account_id);
    assert_ne!(lost.token_id, first.token_id);
    let other = operator.ensure_account_and_token("other", Some(&first.secret)).await.unwrap();
    assert_ne!(other.account_id, first.account_id);
    plane.accounts(lost.secret.expose_secret()).await.who_am_i(WhoAmIRequest {}).await.unwrap();
}

#[tokio::test]
async fn revoke_admin_token_revokes_admin_tokens_only() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let admin = operator.create_admin_token("ops").await.unwrap();
    assert!(operator.revoke_admin_token(admin.token_id).await.unwrap());
    assert!(!operator.revoke_admin_token(admin.token_id).await.unwrap());
    let mut client = plane.accounts(admin.secret.expose_secret()).await;
    let status = client.list_accounts(ListAccountsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let tenant = operator.ensure_account_and_token("dev", None).await.unwrap();
    assert!(!operator.revoke_admin_token(tenant.token_id).await.unwrap());
}

#[tokio::test]
async fn names_follow_the_rules_of_the_contract() {
    let plane = Plane::start().await;
    let operator = plane.operator();
    let mut admin = plane.admin().await;
    for name in ["", " ", "a\u{1b}b", &"ä".repeat(201)] {
        for refused in [
            operator.create_admin_token(name).await.unwrap_err(),
            operator.ensure_account_and_token(name, None).await.unwrap_err(),
        ] {
            assert_eq!(refused.public().invalid[0].field, "name", "{name:?}");
        }
        let refused = admin.create_account(CreateAccountRequest { name: name.to_owned() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
    }
    let name = "ä".repeat(200);
    operator.ensure_account_and_token(&name, None).await.unwrap();
    admin.create_account(CreateAccountRequest { name }).await.unwrap();
}
