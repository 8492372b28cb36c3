//! Operator commands on the database.

use secrecy::ExposeSecret;
use steward_proto::registry::v1::{ListAccountsRequest, WhoAmIRequest};
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
