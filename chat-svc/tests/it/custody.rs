//! Tests an erasure at chat-svc: writers are stopped, turns end, rows are deleted, and no later write is
//! admitted.

use std::time::Duration;

use steward_proto::{
    chat::v1::{CancelTurnRequest, CreateSessionRequest, CreateTurnRequest, GetSessionRequest, TurnStatus},
    custody::v1::{
        self as proto, CheckInvariantsRequest, CommitRequest, DescribeRequest, EraseRequest, FreezeRequest,
        ListAllRequest, Step, Subject, SubjectKind, ThawRequest, VerifyRequest,
    },
};
use svc_core::{
    data::pg::{self, Tx},
    error::reason_of,
    id::{PurgeId, SessionId},
    subject,
    wire::principal::Principal,
};
use tokio::time::timeout;
use tonic::Code;

use crate::plane::{Plane, Tenant, all, keyed, until};

pub(crate) fn step(purge: PurgeId, epoch: i64, tenant: &Tenant, session: Option<&str>) -> Option<Step> {
    let account_id = tenant.account.to_string();
    let subject = match session {
        Some(session) => {
            Subject { kind: SubjectKind::Session.into(), subject_id: session.to_owned(), account_id }
        }
        None => Subject { kind: SubjectKind::Account.into(), subject_id: account_id.clone(), account_id },
    };
    Some(Step { purge_id: purge.to_string(), epoch, subject: Some(subject) })
}

async fn rows_of(plane: &Plane, session: &str) -> i64 {
    let session: uuid::Uuid = session.parse().unwrap();
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM sessions WHERE id = $1)
              + (SELECT count(*) FROM turns WHERE session_id = $1)
              + (SELECT count(*) FROM messages WHERE session_id = $1)
              + (SELECT count(*) FROM tool_calls WHERE session_id = $1)
              + (SELECT count(*) FROM turn_events e
                 WHERE NOT EXISTS (SELECT FROM turns t WHERE t.id = e.turn_id))",
    )
    .bind(session)
    .fetch_one(&mut plane.db.owner("chat").await)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_session_is_frozen_erased_verified_and_committed() {
    let plane = Plane::start().await;
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    let kept = tenant.session().await;
    tenant.run(&session, "run make").await;
    tenant.run(&kept, "say stay").await;
    let running = tenant.say(&session, "count to 1000 every 10ms").await.turn_id;
    let queued = tenant.say(&session, "say never").await.turn_id;
    let mut stream = tenant.follow(&running, "").await;
    until(&mut stream, "text.delta").await;

    let id = PurgeId::new();
    let at = |epoch| step(id, epoch, &tenant, Some(&session));
    let frozen = purge.freeze(FreezeRequest { step: at(1) }).await.unwrap().into_inner();
    assert!(frozen.known);
    let last = all(stream).await.pop().unwrap();
    assert_eq!((last.kind.as_str(), last.json()["cause"].as_str()), ("turn.canceled", Some("ERASED")));
    for turn in [&running, &queued] {
        let cancel = CancelTurnRequest { turn_id: turn.clone() };
        let canceled = tenant.clone().client.cancel_turn(cancel).await.unwrap().into_inner().turn.unwrap();
        assert_eq!(canceled.status(), TurnStatus::Canceled, "the frozen session's turn is final");
    }
    let refused = tenant.clone().try_say(&session, "say more").await.unwrap_err();
    assert_eq!(reason_of(&refused).as_deref(), Some("SUBJECT_FROZEN"));
    assert!(tenant.clone().try_say(&kept, "say more").await.is_ok(), "other sessions are untouched");

    let stale = purge.erase(EraseRequest { step: at(0) }).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    let erased = purge.erase(EraseRequest { step: at(1) }).await.unwrap().into_inner();
    assert!(
        erased.done && erased.deleted.iter().any(|kind| kind.kind == "chat.turn_events" && kind.count > 0)
    );
    let again = purge.erase(EraseRequest { step: at(1) }).await.unwrap().into_inner();
    assert_eq!(again, erased, "answered the same again");
    let too_late = purge.thaw(ThawRequest { step: at(1) }).await.unwrap_err();
    assert_eq!(reason_of(&too_late).as_deref(), Some("ERASURE_STARTED"));

    let described = purge.describe(DescribeRequest {}).await.unwrap().into_inner();
    let verified = purge.verify(VerifyRequest { step: at(1) }).await.unwrap().into_inner();
    let kinds: Vec<_> = verified.residue.iter().map(|kind| kind.kind.clone()).collect();
    assert_eq!(kinds, described.kinds);
    assert!(verified.residue.iter().all(|kind| kind.count == 0), "{:?}", verified.residue);
    purge.commit(CommitRequest { step: at(1) }).await.unwrap();
    assert_eq!(rows_of(&plane, &session).await, 0);
    let gone = GetSessionRequest { session_id: session.clone() };
    assert_eq!(tenant.clone().client.get_session(gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(tenant.clone().try_say(&session, "say more").await.unwrap_err().code(), Code::NotFound);
    let checked = purge.check_invariants(CheckInvariantsRequest {}).await.unwrap().into_inner();
    assert!(checked.violations.is_empty() && !checked.checked.is_empty(), "{:?}", checked.violations);
    let listed = purge.list_all(ListAllRequest::default()).await.unwrap().into_inner().subjects;
    assert!(listed.iter().all(|subject| subject.subject_id != session));
    assert!(listed.iter().any(|subject| subject.subject_id == kept));
    let audit: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE act = 'session.erased'")
        .fetch_one(&mut plane.db.owner("chat").await)
        .await
        .unwrap();
    assert_eq!(audit, 1);

    // A row of the erased session that appears later is reported.
    sqlx::query(
        "INSERT INTO idempotency_keys (account_id, session_id, method, key, request_hash, result, expires_at)
         VALUES ($1, $2, 'm', 'k', '', '{}', now())",
    )
    .bind(tenant.account.0)
    .bind(session.parse::<uuid::Uuid>().unwrap())
    .execute(&mut plane.db.owner("chat").await)
    .await
    .unwrap();
    let broken = purge.check_invariants(CheckInvariantsRequest {}).await.unwrap().into_inner().violations;
    let named: Vec<_> = broken.iter().map(|v| (v.invariant.as_str(), v.offending_ids.clone())).collect();
    assert_eq!(named, [("nothing_of_an_erased_subject", vec![session])]);
}

#[tokio::test]
async fn a_freeze_waits_for_an_open_writer() {
    let plane = Plane::start().await;
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    tenant.run(&session, "say hello").await;
    let id = SessionId(session.parse().unwrap());
    let pool = plane.db.pool("chat");
    let inside = subject::Subject::Session { account: tenant.account, session: id };
    let mut writer = Tx::for_subject(&pool, inside).await.unwrap();

    let purge_id = PurgeId::new();
    let at = || step(purge_id, 1, &tenant, Some(&session));
    let mut freezer = purge.clone();
    let freeze = freezer.freeze(FreezeRequest { step: at() });
    tokio::pin!(freeze);
    assert!(timeout(Duration::from_millis(300), &mut freeze).await.is_err(), "froze over a writer");
    // The open writer may still write while the freeze waits; a later writer is refused.
    let written = sqlx::query(
        "INSERT INTO messages SELECT $2, account_id, session_id, turn_id, ordinal, 99, role,
                parts, model, finish_reason, created_at
           FROM messages WHERE session_id = $1 LIMIT 1",
    )
    .bind(id.0)
    .bind(svc_core::id::new_id())
    .execute(&mut *writer)
    .await
    .unwrap();
    assert_eq!(written.rows_affected(), 1);
    let late = Tx::for_subject(&pool, inside).await.unwrap_err();
    assert!(matches!(late, pg::Error::SubjectFrozen(_)), "{late:?}");
    assert!(timeout(Duration::from_millis(300), &mut freeze).await.is_err(), "froze over a writer");
    writer.commit().await.unwrap();
    assert!(freeze.await.unwrap().into_inner().known);

    let erased = purge.erase(EraseRequest { step: at() }).await.unwrap().into_inner();
    let messages = erased.deleted.iter().find(|kind| kind.kind == "chat.messages").unwrap();
    assert_eq!(messages.count, 3, "the late message is among them");
    let verified = purge.verify(VerifyRequest { step: at() }).await.unwrap().into_inner();
    assert!(verified.residue.iter().all(|kind| kind.count == 0), "{:?}", verified.residue);
    purge.commit(CommitRequest { step: at() }).await.unwrap();
    assert_eq!(rows_of(&plane, &session).await, 0);
}

#[tokio::test]
async fn the_keys_of_a_sessions_requests_are_erased_with_it() {
    let plane = Plane::start().await;
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let request = keyed("made-by-me", CreateSessionRequest::default());
    let made = tenant.client.create_session(request).await.unwrap().into_inner();
    let session = made.session.unwrap().session_id;
    let kept = keyed("kept", CreateSessionRequest::default());
    tenant.client.create_session(kept).await.unwrap();
    let said = CreateTurnRequest { session_id: session.clone(), input: "say hello".to_owned() };
    tenant.client.create_turn(keyed("said-by-me", said)).await.unwrap();
    let keys = async || {
        sqlx::query_scalar::<_, String>("SELECT key FROM idempotency_keys ORDER BY key")
            .fetch_all(&mut plane.db.owner("chat").await)
            .await
            .unwrap()
    };
    assert_eq!(keys().await, ["kept", "made-by-me", "said-by-me"]);
    let id = PurgeId::new();
    let at = || step(id, 1, &tenant, Some(&session));
    purge.freeze(FreezeRequest { step: at() }).await.unwrap();
    while !purge.erase(EraseRequest { step: at() }).await.unwrap().into_inner().done {}
    let verified = purge.verify(VerifyRequest { step: at() }).await.unwrap().into_inner();
    assert!(verified.residue.iter().all(|kind| kind.count == 0), "{:?}", verified.residue);
    assert_eq!(keys().await, ["kept"]);
}

#[tokio::test]
async fn a_thawed_session_takes_turns_again() {
    let plane = Plane::start().await;
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    let id = PurgeId::new();
    purge.freeze(FreezeRequest { step: step(id, 1, &tenant, Some(&session)) }).await.unwrap();
    assert!(tenant.try_say(&session, "say no").await.is_err());
    purge.thaw(ThawRequest { step: step(id, 1, &tenant, Some(&session)) }).await.unwrap();
    assert!(tenant.try_say(&session, "say yes").await.is_ok());
}

#[tokio::test]
async fn an_erasure_withdrawn_before_its_freeze_ends_no_turn() {
    let plane = Plane::start().await;
    let (mut tenant, mut purge) = (plane.tenant(), plane.purge());
    let session = tenant.session().await;
    let turn = tenant.say(&session, "count to 40 every 15ms").await.turn_id;
    let mut stream = tenant.follow(&turn, "").await;
    until(&mut stream, "text.delta").await;
    let id = PurgeId::new();
    purge.thaw(ThawRequest { step: step(id, 1, &tenant, Some(&session)) }).await.unwrap();
    assert_eq!(tenant.wait(&turn).await.status(), TurnStatus::Completed);
    // A freeze that arrives late is refused.
    let late = purge.freeze(FreezeRequest { step: step(id, 1, &tenant, Some(&session)) }).await.unwrap_err();
    assert_eq!(reason_of(&late).as_deref(), Some("PURGE_THAWED"));
    assert!(tenant.try_say(&session, "say yes").await.is_ok());
}

#[tokio::test]
async fn an_account_is_erased_with_its_sessions_and_keys() {
    let plane = Plane::start().await;
    let (mut tenant, mut bystander, mut purge) = (plane.tenant(), plane.tenant(), plane.purge());
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = tenant.session().await;
        tenant.run(&session, "say hello").await;
        sessions.push(session);
    }
    let other = bystander.session().await;
    bystander.run(&other, "say hello").await;
    let id = PurgeId::new();
    let at = || step(id, 1, &tenant, None);
    purge.freeze(FreezeRequest { step: at() }).await.unwrap();
    let refused = tenant.clone().client.create_session(CreateSessionRequest::default()).await.unwrap_err();
    assert_eq!(reason_of(&refused).as_deref(), Some("SUBJECT_FROZEN"));
    while !purge.erase(EraseRequest { step: at() }).await.unwrap().into_inner().done {}
    let verified = purge.verify(VerifyRequest { step: at() }).await.unwrap().into_inner();
    assert!(verified.residue.iter().all(|kind| kind.count == 0), "{:?}", verified.residue);
    purge.commit(CommitRequest { step: at() }).await.unwrap();
    for session in &sessions {
        assert_eq!(rows_of(&plane, session).await, 0);
    }
    assert_eq!(bystander.messages(&other).await.len(), 2, "other accounts are untouched");
}

#[tokio::test]
async fn only_purge_svc_may_call_the_custodian() {
    let plane = Plane::start().await;
    let caller = plane.stating(Principal::service("registry-svc", None));
    let mut client = proto::custodian_service_client::CustodianServiceClient::new(caller);
    let status = client.describe(DescribeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
