//! Accepting erasures: durable, once, and for the caller's own sessions only.

use futures::future::join_all;
use purge_svc::testing::{
    Entity, Error,
    app::jobs::PurgeRequest,
    domain::job::{Phase, State},
};
use svc_core::{
    data::idempotency::{Once, RequestHash},
    id::{AccountId, SessionId},
    subject::Subject,
    wire::error::ServiceError,
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
    // Another key for the same session: still one job.
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
        let page = plane.jobs.list(account, 2, &token).await.unwrap();
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(|shown| shown.job.purge_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ours);
    assert!(plane.jobs.list(account, 2, "garbage").await.is_err());
}
