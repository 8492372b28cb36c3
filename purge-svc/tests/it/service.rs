//! Tests the whole service: the test starts it as the program does, and calls it as the gateway does.

use std::{sync::Arc, time::Duration};

use purge_svc::{
    Config, MIGRATOR,
    testing::{
        domain::{custodian::Custodian, external::ItemOutcome},
        fake::{FakeCustodian, Serving},
    },
};
use secrecy::ExposeSecret;
use steward_proto::purge::v1::{
    self as proto, PurgeState, purge_admin_service_client::PurgeAdminServiceClient,
    purge_service_client::PurgeServiceClient,
};
use svc_core::{
    error::reason_of,
    id::{AccountId, SessionId, new_id},
    run::lifecycle::{Lifecycle, Outcome},
    subject::Subject,
    testing::{TestDb, TestRedis, free_address},
    wire::{
        assertion::{GATEWAY, trust_file},
        client::{Caller, Peer, PeerConfig},
        principal::{Principal, PrincipalKind},
    },
};
use tempfile::TempDir;
use tonic::{Code, Request};

use crate::{chat::FakeSessions, plane::Keys};

struct Running {
    peer: Peer,
    owners: [FakeCustodian; 3],
    lifecycle: Lifecycle,
    _servings: [Serving; 2],
    _files: TempDir,
    _redis: TestRedis,
    _db: TestDb,
}

/// Starts purge-svc with these triggers switched on.
async fn start(triggers: &str) -> Running {
    let db = TestDb::new(&[("purge", &MIGRATOR)]).await;
    let redis = TestRedis::new();
    // The custodians are other processes: they do not stop with this one.
    let (lifecycle, outside) = (Lifecycle::new(), Lifecycle::new());
    let files = tempfile::tempdir().unwrap();
    let (ours, gateway) = (Keys::new("purge-svc"), Keys::new(GATEWAY));
    let (key_file, trusted) = (files.path().join("key"), files.path().join("trust.toml"));
    std::fs::write(&key_file, &ours.private).unwrap();
    std::fs::write(&trusted, trust_file(&[ours.trusted.clone(), gateway.trusted.clone()]).unwrap()).unwrap();

    let owners = Custodian::ALL.map(FakeCustodian::new);
    let [chat, registry, sandbox] = &owners;
    let chat_at = FakeSessions::serve(chat.clone(), ours.verifier("chat-svc"), &outside).await;
    let registry_at = registry.serve(&outside).await.unwrap();
    let sandbox_at = sandbox.serve(&outside).await.unwrap();
    let (listen, operator_listen) = (free_address(), free_address());
    let redis_config = redis.config();
    let text = format!(
        "triggers = {triggers}
         [identity]
         key_file = {key_file:?}
         trust_file = {trusted:?}
         [server]
         listen = '{listen}'
         operator_listen = '{operator_listen}'
         drain_delay = '10ms'
         [pg]
         url = '{pg}'
         [redis]
         url = '{redis}'
         key_prefix = '{prefix}'
         [peers]
         chat.urls = ['http://{chat_at}']
         registry.urls = ['{registry}']
         sandbox.urls = ['{sandbox}']
         [required_kinds]
         chat = []
         [worker]
         poll = '50ms'",
        pg = db.url("purge"),
        redis = redis_config.url.expose_secret(),
        prefix = redis_config.key_prefix,
        registry = registry_at.url(),
        sandbox = sandbox_at.url(),
    );
    let config_file = files.path().join("purge.toml");
    std::fs::write(&config_file, text).unwrap();
    let config = Config::load(Some(&config_file)).unwrap();
    let metrics = svc_core::run::telemetry::init("purge-svc", &config.base.telemetry).unwrap().metrics();
    purge_svc::start(config, lifecycle.clone(), metrics).await.unwrap();
    let config = PeerConfig { urls: vec![format!("http://{listen}")], timeout: Duration::from_secs(10) };
    let peer = Peer::lazy("purge-svc", &config, Arc::new(gateway.signer())).unwrap();
    Running {
        peer,
        owners,
        lifecycle,
        _servings: [registry_at, sandbox_at],
        _files: files,
        _redis: redis,
        _db: db,
    }
}

impl Running {
    fn as_account(&self, account: AccountId) -> PurgeServiceClient<Caller> {
        PurgeServiceClient::new(self.peer.stating(Principal::account(account)))
    }

    fn as_admin(&self) -> PurgeAdminServiceClient<Caller> {
        PurgeAdminServiceClient::new(self.peer.stating(admin()))
    }

    fn session(&self, account: AccountId) -> Subject {
        let subject = Subject::Session { account, session: SessionId::new() };
        for owner in &self.owners {
            owner.seed(subject, 5, &[&format!("{}-{}", owner.custodian(), subject.id())]);
        }
        subject
    }

    async fn stop(self) {
        self.lifecycle.stop();
        assert_eq!(self.lifecycle.run_until_stopped(Duration::from_secs(10)).await, Outcome::Clean);
    }
}

fn admin() -> Principal {
    Principal {
        kind: PrincipalKind::Admin,
        subject_id: "operator".to_owned(),
        account_id: None,
        scopes: Vec::new(),
        token_id: None,
    }
}

fn purge(session: impl ToString) -> proto::PurgeSessionRequest {
    proto::PurgeSessionRequest { session_id: session.to_string() }
}

fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn assert_reused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) {
    let status = answer.unwrap_err();
    let reason = reason_of(&status);
    assert_eq!((status.code(), reason.as_deref()), (Code::AlreadyExists, Some("IDEMPOTENCY_KEY_REUSED")));
}

async fn until_committed(client: &mut PurgeServiceClient<Caller>, purge_id: &str) -> proto::Purge {
    for _ in 0..400 {
        let request = proto::GetPurgeRequest { purge_id: purge_id.to_owned() };
        let purge = client.get_purge(request).await.unwrap().into_inner().purge.unwrap();
        if purge.state() == PurgeState::Committed {
            return purge;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{purge_id} is not committed")
}

#[tokio::test]
async fn a_session_is_purged_over_grpc() {
    let plane = start("['user_erasure']").await;
    let account = AccountId::new();
    let subject = plane.session(account);
    let mut client = plane.as_account(account);
    let accepted = client.purge_session(purge(subject.id())).await.unwrap().into_inner().purge.unwrap();
    assert_eq!(accepted.session_id, subject.id().to_string());

    let done = until_committed(&mut client, &accepted.purge_id).await;
    assert_eq!((done.session_id.as_str(), done.cause.as_str()), ("", ""));
    let receipt = done.receipt.unwrap();
    assert_eq!((receipt.seq, receipt.custodians.len(), receipt.hash.len()), (1, 3, 64));
    for owner in &plane.owners {
        assert!(owner.is_erased(subject));
    }

    let again = client.purge_session(purge(subject.id())).await.unwrap().into_inner().purge.unwrap();
    assert_eq!(again.purge_id, accepted.purge_id);
    let listed = client.list_purges(proto::ListPurgesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.purges, [again]);
    let checked = plane.as_admin().check_ledger(proto::CheckLedgerRequest {}).await.unwrap().into_inner();
    assert_eq!((checked.receipts, checked.head_hash, checked.problem), (1, receipt.hash, String::new()));
    plane.stop().await;
}

#[tokio::test]
async fn refusals_say_what_the_caller_should_do() {
    let plane = start("[]").await;
    let account = AccountId::new();
    let subject = plane.session(account);
    let mut client = plane.as_account(account);
    let refused = |status: tonic::Status| (status.code(), reason_of(&status).unwrap_or_default());

    let status = client.purge_session(purge("7")).await.unwrap_err();
    assert_eq!(refused(status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    let mut foreign = plane.as_account(AccountId::new());
    let status = foreign.purge_session(purge(subject.id())).await.unwrap_err();
    assert_eq!(refused(status), (Code::NotFound, "NOT_FOUND".to_owned()));
    let mut operator = PurgeServiceClient::new(plane.peer.stating(admin()));
    let status = operator.purge_session(purge(subject.id())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut limited = Principal::account(account);
    limited.scopes = vec!["sessions:read".to_owned()];
    let mut limited = PurgeServiceClient::new(plane.peer.stating(limited));
    let status = limited.purge_session(purge(subject.id())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = plane.as_admin().set_hold(proto::SetHoldRequest::default()).await.unwrap_err();
    assert_eq!(refused(status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));

    let accepted = client.purge_session(keyed("k", purge(subject.id()))).await.unwrap().into_inner();
    let purge_id = accepted.purge.unwrap().purge_id;
    let other = plane.session(account);
    assert_reused(client.purge_session(keyed("k", purge(other.id()))).await);
    let status = foreign.get_purge(proto::GetPurgeRequest { purge_id }).await.unwrap_err();
    assert_eq!(refused(status), (Code::NotFound, "NOT_FOUND".to_owned()));
    plane.stop().await;
}

#[tokio::test]
async fn a_job_of_a_trigger_that_is_off_is_accepted_and_waits() {
    let plane = start("['grace_expiry']").await;
    let account = AccountId::new();
    let subject = plane.session(account);
    let mut client = plane.as_account(account);
    let accepted = client.purge_session(purge(subject.id())).await.unwrap().into_inner().purge.unwrap();
    assert_eq!((accepted.state(), accepted.cause.as_str()), (PurgeState::Pending, "SWITCHED_OFF"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = proto::GetPurgeRequest { purge_id: accepted.purge_id.clone() };
    let later = client.get_purge(request).await.unwrap().into_inner().purge.unwrap();
    assert_eq!(later, accepted);
    assert!(plane.owners.iter().all(|owner| owner.is_live(subject) && owner.calls().is_empty()));

    let cancel = |purge_id: &str| keyed("c", proto::CancelPurgeRequest { purge_id: purge_id.to_owned() });
    let canceled = client.cancel_purge(cancel(&accepted.purge_id)).await.unwrap().into_inner();
    assert!(canceled.purge.unwrap().canceling);
    let repeated = client.cancel_purge(cancel(&accepted.purge_id)).await.unwrap().into_inner();
    assert!(repeated.purge.unwrap().canceling);
    assert_reused(client.cancel_purge(cancel(&new_id().to_string())).await);
    plane.stop().await;
}

#[tokio::test]
async fn operators_set_and_release_holds_over_grpc() {
    let plane = start("['user_erasure']").await;
    let account = AccountId::new();
    let subject = plane.session(account);
    let mut admin = plane.as_admin();
    let ends_at = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let set = proto::SetHoldRequest {
        subject: Some(proto::set_hold_request::Subject::SessionId(subject.id().to_string())),
        basis: proto::HoldBasis::LegalClaim.into(),
        reference: "HC-17".to_owned(),
        ends_at,
    };
    let hold = admin.set_hold(set.clone()).await.unwrap().into_inner().hold.unwrap();
    assert_eq!((hold.reference.as_str(), hold.ends_at), ("HC-17", ends_at));

    let mut client = plane.as_account(account);
    let accepted = client.purge_session(purge(subject.id())).await.unwrap().into_inner().purge.unwrap();
    let request = || proto::GetPurgeRequest { purge_id: accepted.purge_id.clone() };
    let held = loop {
        let purge = client.get_purge(request()).await.unwrap().into_inner().purge.unwrap();
        if purge.state() == PurgeState::Blocked {
            break purge;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((held.cause.as_str(), held.next_attempt_at), ("HELD", ends_at));
    let listed = admin.list_holds(proto::ListHoldsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.holds, std::slice::from_ref(&hold));

    let release = |hold_id: &str| keyed("r", proto::ReleaseHoldRequest { hold_id: hold_id.to_owned() });
    let released = admin.release_hold(release(&hold.hold_id)).await.unwrap().into_inner();
    let repeated = admin.release_hold(release(&hold.hold_id)).await.unwrap().into_inner();
    assert_eq!(repeated, released);
    assert_reused(admin.release_hold(release(&new_id().to_string())).await);
    until_committed(&mut client, &accepted.purge_id).await;
    let status = admin.set_hold(set).await.unwrap_err();
    assert_eq!(
        (status.code(), reason_of(&status).as_deref()),
        (Code::FailedPrecondition, Some("ERASURE_STARTED"))
    );
    let letters =
        admin.list_dead_letters(proto::ListDeadLettersRequest::default()).await.unwrap().into_inner();
    assert_eq!(letters.dead_letters, []);
    plane.stop().await;
}

#[tokio::test]
async fn operators_resolve_a_dead_letter_once_per_key() {
    let plane = start("['user_erasure']").await;
    let account = AccountId::new();
    let subject = plane.session(account);
    let [_, _, sandbox] = &plane.owners;
    let object = format!("{}-{}", sandbox.custodian(), subject.id());
    sandbox.jam(&object, ItemOutcome::Permanent, "REFUSED");
    let mut client = plane.as_account(account);
    let accepted = client.purge_session(purge(subject.id())).await.unwrap().into_inner().purge.unwrap();
    let mut admin = plane.as_admin();
    let letter = loop {
        let page = admin.list_dead_letters(proto::ListDeadLettersRequest::default()).await.unwrap();
        if let Some(letter) = page.into_inner().dead_letters.pop() {
            break letter;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    sandbox.unjam(&object);
    let resolve = |id: &str| keyed("d", proto::ResolveDeadLetterRequest { dead_letter_id: id.to_owned() });
    let resolved = admin.resolve_dead_letter(resolve(&letter.dead_letter_id)).await.unwrap().into_inner();
    assert!(resolved.dead_letter.unwrap().resolved_at.is_some());
    admin.resolve_dead_letter(resolve(&letter.dead_letter_id)).await.unwrap();
    assert_reused(admin.resolve_dead_letter(resolve(&new_id().to_string())).await);
    until_committed(&mut client, &accepted.purge_id).await;
    plane.stop().await;
}
