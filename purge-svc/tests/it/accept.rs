//! Tests how erasures are accepted and listed: concurrent or repeated requests make one job, an account can
//! erase only its own sessions, and an idempotency key belongs to one request.

use chrono::TimeDelta;
use futures::future::join_all;
use purge_svc::testing::{
    Entity, Error,
    app::{holds::NewHold, jobs::PurgeRequest},
    domain::{
        hold::Basis,
        job::{JobFilter, Phase, State, StateLabel},
    },
};
use svc_core::{
    data::idempotency::{Once, RequestHash},
    error::ServiceError,
    id::{AccountId, SessionId},
    subject::{Subject, SubjectKind},
};

use crate::plane::Plane;

fn once(key: &str, body: &str) -> Once {
    let hash = RequestHash::of(&body.to_owned());
    Once::new("steward.purge.v1.PurgeService/PurgeSession", key.parse().unwrap(), hash)
}

#[tokio::test]
async fn demands_at_the_same_time_are_one_job() {
    let plane = Plane::new().await;
    let subject = plane.session();
    let demands = (0..16).map(|_| plane.accept(subject));
    let jobs = join_all(demands).await;
    assert!(jobs.iter().all(|shown| shown.job.purge_id == jobs[0].job.purge_id));
    assert_eq!(plane.count("purge_jobs").await, 1);
    assert_eq!(jobs[0].job.record.state, State::Working(Phase::Pending));
}

#[tokio::test]
async fn a_session_of_another_account_does_not_exist() {
    let plane = Plane::new().await;
    let (subject, _) = plane.accepted().await;
    let session = subject.session().unwrap();
    for account in [AccountId::new(), AccountId::new()] {
        let foreign = Subject::Session { account, session };
        let refused = plane.jobs.accept(&Plane::demand(foreign)).await.unwrap_err();
        assert!(matches!(refused, Error::NotFound(Entity::Session)), "{refused:?}");
    }
    let unknown = Subject::Session { account: subject.account(), session: SessionId::new() };
    let refused = plane.jobs.accept(&Plane::demand(unknown)).await.unwrap_err();
    assert!(matches!(refused, Error::NotFound(Entity::Session)), "{refused:?}");
    assert_eq!(plane.count("purge_jobs").await, 1);
}

#[tokio::test]
async fn the_key_of_a_demand_goes_with_its_session() {
    let plane = Plane::new().await;
    let demand = PurgeRequest { once: once("a-key", "a"), ..Plane::demand(plane.session()) };
    let purge_id = plane.jobs.accept(&demand).await.unwrap().job.purge_id;
    assert_eq!(plane.count("idempotency_keys").await, 1);
    plane.run_to_the_end(purge_id).await;
    assert_eq!(plane.count("idempotency_keys").await, 0);
}

#[tokio::test]
async fn a_request_for_an_erased_session_returns_its_job() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.run_to_the_end(purge_id).await;
    let again = plane.accept(subject).await;
    assert_eq!(again.job.purge_id, purge_id);
    assert!(again.receipt.is_some());
    assert_eq!(plane.receipts().await.len(), 1);
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let plane = Plane::new().await;
    let (one, other) = (plane.session(), plane.session());
    let with = |subject: Subject, key: &str| {
        let mut demand = Plane::demand(subject);
        demand.once = once(key, &subject.id().to_string());
        demand
    };
    let first = plane.jobs.accept(&with(one, "k1")).await.unwrap();
    let again = plane.jobs.accept(&with(one, "k1")).await.unwrap();
    assert_eq!(first.job.purge_id, again.job.purge_id);
    let mut reused = with(one, "k1");
    reused.once = once("k1", "another request");
    let refused = plane.jobs.accept(&reused).await.unwrap_err();
    assert_eq!(refused.reason(), "IDEMPOTENCY_KEY_REUSED");
    // Each tenant has its own keys.
    assert_ne!(plane.jobs.accept(&with(other, "k1")).await.unwrap().job.purge_id, first.job.purge_id);
    // A request with another key for the same session makes no second job.
    assert_eq!(plane.jobs.accept(&with(one, "k2")).await.unwrap().job.purge_id, first.job.purge_id);
}

#[tokio::test]
async fn an_account_lists_its_own_jobs_newest_first() {
    let plane = Plane::new().await;
    let account = AccountId::new();
    let mut ours = Vec::new();
    for _ in 0..5 {
        ours.push(plane.accept(plane.session_of(account)).await.job.purge_id);
        plane.accepted().await;
    }
    ours.reverse();
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let page = plane.jobs.list(account, &JobFilter::default(), 2, &token).await.unwrap();
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(|shown| shown.job.purge_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ours);
    assert!(plane.jobs.list(account, &JobFilter::default(), 2, "garbage").await.is_err());
}

#[tokio::test]
async fn a_list_is_filtered_by_state_and_session() {
    let plane = Plane::new().await;
    let account = AccountId::new();
    let (one, two) = (plane.session_of(account), plane.session_of(account));
    let erased = plane.accept(one).await.job.purge_id;
    plane.run_to_the_end(erased).await;
    let pending = plane.accept(two).await.job.purge_id;
    plane.accepted().await;

    let list = async |state, subject: Option<Subject>| {
        let filter = JobFilter { state, session: subject.and_then(|subject| subject.session()) };
        let page = plane.jobs.list(account, &filter, 50, "").await.unwrap();
        page.items.into_iter().map(|shown| shown.job.purge_id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None).await, [pending, erased]);
    assert_eq!(list(Some(StateLabel::Pending), None).await, [pending]);
    assert_eq!(list(Some(StateLabel::Committed), None).await, [erased]);
    assert_eq!(list(Some(StateLabel::Blocked), None).await, []);
    assert_eq!(list(None, Some(one)).await, [erased], "a job is found after it has erased its session");
    assert_eq!(list(Some(StateLabel::Committed), Some(two)).await, []);
}

#[tokio::test]
async fn a_key_stands_for_one_cancellation() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let account = subject.account();
    let cancel = async |key: &str, body: &str| plane.jobs.cancel(account, purge_id, &once(key, body)).await;
    assert!(cancel("k1", "one").await.unwrap().job.record.canceling);
    let generation = plane.job(purge_id).await.record.generation;
    assert!(cancel("k1", "one").await.unwrap().job.record.canceling);
    assert_eq!(cancel("k1", "two").await.unwrap_err().reason(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(plane.job(purge_id).await.record.generation, generation);
}

#[tokio::test]
async fn a_refused_cancellation_keeps_no_key() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.run_to_the_end(purge_id).await;
    for body in ["one", "two"] {
        let late = plane.jobs.cancel(subject.account(), purge_id, &once("k1", body)).await.unwrap_err();
        assert_eq!(late.reason(), "ERASURE_STARTED");
    }
    assert_eq!(plane.count("idempotency_keys").await, 0);
}

#[tokio::test]
async fn a_key_stands_for_one_release_of_a_hold() {
    let plane = Plane::new().await;
    let subject = plane.session();
    let new = NewHold {
        kind: SubjectKind::Session,
        subject_id: subject.id(),
        basis: Basis::LegalClaim,
        reference: "HC-1".to_owned(),
        ends_at: plane.now() + TimeDelta::days(1),
    };
    let hold = plane.holds.set(&new, "operator", &once("k1", "set")).await.unwrap();
    let release = async |key: &str, body: &str, principal: &str| {
        plane.holds.release(hold.hold_id, principal, &once(key, body)).await
    };
    let released = release("k2", "release", "operator").await.unwrap();
    assert!(released.released_at.is_some());
    assert_eq!(release("k2", "release", "other").await.unwrap().released_at, released.released_at);
    let refused = release("k2", "another request", "operator").await.unwrap_err();
    assert_eq!(refused.reason(), "IDEMPOTENCY_KEY_REUSED");
}
