//! Tests accounts, API tokens, and authentication.

use std::{collections::BTreeSet, time::Duration};

use secrecy::ExposeSecret;
use steward_proto::{
    common::v1::PrincipalKind,
    registry::v1::{
        AuthenticateRequest, CreateAccountRequest, CreateTokenRequest, CreateTokenResponse,
        GetAccountRequest, ListAccountsRequest, ListTokensRequest, RevokeTokenRequest, WhoAmIRequest,
        account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient,
    },
};
use svc_core::{error::reason_of, id::AccountId, wire::principal::Principal};
use tonic::{Code, Status};

use crate::plane::{Bearing, Plane, keyed};

type Accounts = AccountServiceClient<Bearing>;

impl Plane {
    pub(crate) async fn admin(&self) -> Accounts {
        let issued = self.operator().create_admin_token("tests").await.unwrap();
        self.accounts(issued.secret.expose_secret()).await
    }

    pub(crate) async fn accounts(&self, secret: &str) -> Accounts {
        AccountServiceClient::new(self.bearer(secret).await)
    }

    /// Creates an account with a token that has every scope; returns its id and the token's secret.
    pub(crate) async fn tenant(&self, name: &str) -> (String, String) {
        let issued = self.operator().ensure_account_and_token(name, None).await.unwrap();
        (issued.account_id.unwrap().to_string(), issued.secret.expose_secret().to_owned())
    }
}

fn token_request(account_id: &str, scopes: &[&str]) -> CreateTokenRequest {
    CreateTokenRequest {
        account_id: account_id.to_owned(),
        name: "ci".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ttl: None,
    }
}

fn ttl(seconds: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_secs(seconds).try_into().unwrap())
}

pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), reason_of(&status).unwrap_or_default())
}

#[tokio::test]
async fn an_operator_creates_an_account_with_a_working_token() {
    let plane = Plane::start().await;
    let mut admin = plane.admin().await;
    let account = admin.create_account(CreateAccountRequest { name: "Acme".to_owned() }).await.unwrap();
    let account = account.into_inner().account.unwrap();
    let created = admin.create_token(token_request(&account.account_id, &[])).await.unwrap().into_inner();
    let token = created.token.unwrap();
    assert!(created.secret.starts_with(&token.prefix) && created.secret.len() == 47);
    assert_eq!(token.scopes, ["*"]);

    let mut tenant = plane.accounts(&created.secret).await;
    let me = tenant.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().principal.unwrap();
    assert_eq!(me.kind(), PrincipalKind::Account);
    assert_eq!((&me.subject_id, &me.account_id), (&account.account_id, &account.account_id));
    assert_eq!(me.token_id, token.token_id);

    let mut auth = AuthServiceClient::new(plane.as_service().acting_for(None));
    let answer = auth.authenticate(AuthenticateRequest { token: created.secret }).await.unwrap().into_inner();
    assert_eq!(answer.principal.unwrap(), me);
}

#[tokio::test]
async fn every_bad_token_gets_the_same_answer() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let revoked = tenant.create_token(token_request(&account, &[])).await.unwrap().into_inner();
    let request =
        RevokeTokenRequest { account_id: account.clone(), token_id: revoked.token.unwrap().token_id };
    let token = tenant.revoke_token(request.clone()).await.unwrap().into_inner().token.unwrap();
    assert_eq!(tenant.revoke_token(request).await.unwrap().into_inner().token.unwrap(), token);
    let brief = CreateTokenRequest { ttl: ttl(1), ..token_request(&account, &[]) };
    let expired = tenant.create_token(brief).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let mut auth = AuthServiceClient::new(plane.as_service().acting_for(None));
    let mut answers = BTreeSet::new();
    for token in [revoked.secret, expired.secret, "stw_unknown".to_owned(), String::new()] {
        let status = auth.authenticate(AuthenticateRequest { token }).await.unwrap_err();
        assert_eq!(reason_of(&status).as_deref(), Some("TOKEN_NOT_LIVE"));
        answers.insert((status.code() as i32, status.message().to_owned()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_five_seconds() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let created = tenant.create_token(token_request(&account, &[])).await.unwrap().into_inner();
    let mut other = plane.accounts(&created.secret).await;
    other.who_am_i(WhoAmIRequest {}).await.unwrap();
    let token_id = created.token.unwrap().token_id;
    tenant.revoke_token(RevokeTokenRequest { account_id: account.clone(), token_id }).await.unwrap();

    // The token cache may still accept the revoked token, but the token cannot create another token, which
    // would outlive the revocation.
    assert_eq!(
        refusal(other.create_token(token_request(&account, &[])).await),
        (Code::Unauthenticated, "TOKEN_NOT_LIVE".to_owned())
    );
    tokio::time::sleep(Duration::from_millis(5100)).await;
    assert_eq!(refusal(other.who_am_i(WhoAmIRequest {}).await).0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_caller_cannot_create_a_stronger_token_than_its_own() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let limited = CreateTokenRequest { ttl: ttl(60), ..token_request(&account, &["tokens:write"]) };
    let limited = tenant.create_token(limited).await.unwrap().into_inner();
    let mut limited = plane.accounts(&limited.secret).await;

    let exceeded = (Code::PermissionDenied, "SCOPE_EXCEEDED".to_owned());
    for (scopes, seconds, want) in [
        (&["tokens:write"][..], Some(30), None),
        (&["tokens:write"], Some(90), Some(&exceeded)),
        (&["tokens:write"], None, Some(&exceeded)),
        (&["turns:write"], Some(30), Some(&exceeded)),
        (&[], Some(30), Some(&exceeded)),
    ] {
        let request = CreateTokenRequest { ttl: seconds.and_then(ttl), ..token_request(&account, scopes) };
        let answer = limited.create_token(request).await;
        match want {
            None => assert!(answer.is_ok(), "{scopes:?} {seconds:?}: {answer:?}"),
            Some(want) => assert_eq!(&refusal(answer), want, "{scopes:?} {seconds:?}"),
        }
    }
    let status = tenant.create_token(token_request(&account, &["turns:wriet"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let listing = ListTokensRequest { account_id: account, ..Default::default() };
    assert_eq!(refusal(limited.list_tokens(listing).await).0, Code::PermissionDenied);
}

#[tokio::test]
async fn a_repeated_create_makes_one_token_with_one_secret() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let first = tenant.create_token(keyed("k1", token_request(&account, &[]))).await.unwrap().into_inner();
    let again = tenant.create_token(keyed("k1", token_request(&account, &[]))).await.unwrap().into_inner();
    assert_eq!(again, CreateTokenResponse { secret: String::new(), token: first.token.clone() });
    assert!(!first.secret.is_empty());

    let other = tenant.create_token(keyed("k1", token_request(&account, &["turns:write"]))).await;
    assert_eq!(refusal(other), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".to_owned()));

    let mut admin = plane.admin().await;
    let request = || keyed("k2", CreateAccountRequest { name: "Acme".to_owned() });
    let made = admin.create_account(request()).await.unwrap().into_inner();
    assert_eq!(admin.create_account(request()).await.unwrap().into_inner(), made);
}

#[tokio::test]
async fn accounts_and_tokens_of_another_tenant_are_not_found() {
    let plane = Plane::start().await;
    let (ours, our_secret) = plane.tenant("ours").await;
    let (foreign, their_secret) = plane.tenant("other").await;
    let mut we = plane.accounts(&our_secret).await;
    let mut they = plane.accounts(&their_secret).await;
    let token = they.create_token(token_request(&foreign, &[])).await.unwrap().into_inner().token.unwrap();

    let missing = (Code::NotFound, "NOT_FOUND".to_owned());
    assert_eq!(refusal(we.get_account(GetAccountRequest { account_id: foreign.clone() }).await), missing);
    assert_eq!(refusal(we.create_token(token_request(&foreign, &[])).await), missing);
    let listing = ListTokensRequest { account_id: foreign.clone(), ..Default::default() };
    assert_eq!(refusal(we.list_tokens(listing).await), missing);
    for account_id in [foreign.clone(), ours.clone()] {
        let request = RevokeTokenRequest { account_id, token_id: token.token_id.clone() };
        assert_eq!(refusal(we.revoke_token(request).await), missing);
    }
    let unknown = GetAccountRequest { account_id: AccountId::new().to_string() };
    assert_eq!(refusal(we.get_account(unknown.clone()).await), missing);
    assert_eq!(refusal(plane.admin().await.get_account(unknown).await), missing);
    assert_eq!(refusal(we.list_accounts(ListAccountsRequest::default()).await).0, Code::PermissionDenied);
    assert!(they.get_account(GetAccountRequest { account_id: foreign }).await.is_ok());
}

#[tokio::test]
async fn listings_are_paged_newest_first() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        let created = tenant.create_token(token_request(&account, &[])).await.unwrap().into_inner();
        made.push(created.token.unwrap().token_id);
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTokensRequest { account_id: account.clone(), page_size: 2, page_token };
        let page = tenant.list_tokens(request).await.unwrap().into_inner();
        assert!(page.tokens.len() <= 2);
        seen.extend(page.tokens.into_iter().map(|token| token.token_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    // The list has the four new tokens and the tenant's first token.
    assert_eq!(seen.len(), 5);
    assert!(made.iter().rev().eq(&seen[..4]));

    let mut admin = plane.admin().await;
    plane.tenant("other").await;
    let page = admin.list_accounts(ListAccountsRequest { page_size: 1, ..Default::default() }).await.unwrap();
    let page = page.into_inner();
    assert_eq!(page.accounts[0].name, "other");
    let foreign = ListTokensRequest { account_id: account, page_size: 1, page_token: page.next_page_token };
    assert_eq!(refusal(tenant.list_tokens(foreign).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn concurrent_creates_respect_the_limit_of_live_tokens() {
    let plane = Plane::with(|config| config.own.tokens.max_live_per_account = 4).await;
    let (account, secret) = plane.tenant("acme").await;
    let tenant = plane.accounts(&secret).await;
    let makings = (0..8).map(|_| {
        let (mut tenant, request) = (tenant.clone(), token_request(&account, &[]));
        async move { tenant.create_token(request).await }
    });
    let answers = futures::future::join_all(makings).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 3, "one existed before");
    for refused in answers.into_iter().filter(Result::is_err) {
        assert_eq!(refusal(refused), (Code::FailedPrecondition, "LIMIT_REACHED".to_owned()));
    }
}

#[tokio::test]
async fn only_the_gateway_may_state_a_tenant_as_principal() {
    let plane = Plane::start().await;
    let (account, _) = plane.tenant("acme").await;
    let principal = Principal::account(account.parse().map(AccountId).unwrap());
    let request = || GetAccountRequest { account_id: account.clone() };
    let mut gateway = AccountServiceClient::new(plane.as_gateway().stating(principal.clone()));
    assert_eq!(gateway.get_account(request()).await.unwrap().into_inner().account.unwrap().name, "acme");
    let mut service = AccountServiceClient::new(plane.as_service().stating(principal));
    assert_eq!(refusal(service.get_account(request()).await).0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_bad_request_names_its_field() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let wrong = [
        CreateTokenRequest { account_id: "x".to_owned(), ..token_request(&account, &[]) },
        CreateTokenRequest { name: " ".to_owned(), ..token_request(&account, &[]) },
        CreateTokenRequest { ttl: ttl(0), ..token_request(&account, &[]) },
        CreateTokenRequest {
            ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..token_request(&account, &[])
        },
        CreateTokenRequest { ttl: ttl(1 << 40), ..token_request(&account, &[]) },
    ];
    for request in wrong {
        assert_eq!(refusal(tenant.create_token(request).await).0, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_revocation_takes_an_idempotency_key() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("acme").await;
    let mut tenant = plane.accounts(&secret).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let created = tenant.create_token(token_request(&account, &[])).await.unwrap().into_inner();
        ids.push(created.token.unwrap().token_id);
    }
    let revoke =
        |id: &String| keyed("r1", RevokeTokenRequest { account_id: account.clone(), token_id: id.clone() });
    let first = tenant.revoke_token(revoke(&ids[0])).await.unwrap().into_inner();
    assert!(first.token.as_ref().unwrap().revoked_at.is_some());
    assert_eq!(tenant.revoke_token(revoke(&ids[0])).await.unwrap().into_inner(), first);
    let reused = tenant.revoke_token(revoke(&ids[1])).await;
    assert_eq!(refusal(reused), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED".to_owned()));
}

#[tokio::test]
async fn a_prompt_repetition_meets_no_request_under_way() {
    let plane = Plane::start().await;
    let mut admin = plane.admin().await;
    let (account, _) = plane.tenant("acme").await;
    let made = admin.create_token(keyed("made", token_request(&account, &[]))).await.unwrap().into_inner();
    let token = made.token.unwrap();
    let unknown = svc_core::id::TokenId::new().to_string();
    for _ in 0..20 {
        let request = RevokeTokenRequest { account_id: account.clone(), token_id: unknown.clone() };
        let refused = admin.revoke_token(keyed("unknown", request)).await;
        assert_eq!(refusal(refused), (Code::NotFound, "NOT_FOUND".to_owned()));
        let request = RevokeTokenRequest { account_id: account.clone(), token_id: token.token_id.clone() };
        admin.revoke_token(keyed("known", request)).await.unwrap();
    }
    // The keys of an operator's requests about an account belong to the account, and are erased with it.
    let account: uuid::Uuid = account.parse().unwrap();
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys WHERE account_id = $1")
        .bind(account)
        .fetch_one(&mut plane.db.owner("registry").await)
        .await
        .unwrap();
    assert_eq!(keys, 2);
}
