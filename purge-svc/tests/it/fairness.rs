//! Tests the order in which due jobs are claimed.

use std::time::Duration;

use chrono::TimeDelta;
use purge_svc::testing::{
    app::drive::Progress,
    domain::{
        job::{Record, State},
        trigger::Trigger,
    },
    store::jobs::{self, NewJob},
};
use svc_core::{
    data::idempotency::Once,
    id::{AccountId, PurgeId, SessionId},
    subject::Subject,
};

use crate::plane::Plane;

/// Stores a job that has been due for `due_since` seconds.
async fn job(plane: &Plane, trigger: Trigger, due_since: i64) -> PurgeId {
    let purge_id = PurgeId::new();
    let due = plane.now() - TimeDelta::seconds(due_since);
    let new = NewJob {
        purge_id,
        subject: Subject::Session { account: AccountId::new(), session: SessionId::new() },
        trigger,
        requested_by: "test",
        record: Record::accepted(due),
        cause_traceparent: None,
        created_at: due,
    };
    let mut db = plane.pool.acquire().await.unwrap();
    assert!(jobs::insert(&mut db, &new).await.unwrap());
    purge_id
}

async fn order(plane: &Plane, triggers: &[Trigger]) -> Vec<PurgeId> {
    let mut order = Vec::new();
    while let Some(claim) = plane.claim_of(triggers).await {
        order.push(claim.job.purge_id);
    }
    order
}

#[tokio::test]
async fn urgent_jobs_run_first_and_equals_by_their_wait() {
    let plane = Plane::new().await;
    let grace = job(&plane, Trigger::GraceExpiry, 900).await;
    let newer = job(&plane, Trigger::UserErasure, 5).await;
    let older = job(&plane, Trigger::UserErasure, 50).await;
    let request = job(&plane, Trigger::SubjectRequest, 1).await;
    let account = job(&plane, Trigger::AccountDeletion, 700).await;
    job(&plane, Trigger::SubjectRequest, -60).await;
    assert_eq!(order(&plane, &Trigger::ALL).await, [request, older, newer, account, grace]);
}

#[tokio::test]
async fn jobs_of_a_trigger_that_is_switched_off_wait() {
    let plane = Plane::new().await;
    let off = job(&plane, Trigger::SubjectRequest, 100).await;
    let on = job(&plane, Trigger::UserErasure, 1).await;
    assert_eq!(order(&plane, &[Trigger::UserErasure]).await, [on]);
    assert_eq!(order(&plane, &[]).await, []);
    assert_eq!(order(&plane, &Trigger::ALL).await, [off]);
}

#[tokio::test]
async fn a_begun_job_is_finished_when_its_trigger_is_off() {
    let plane = Plane::new().await;
    let (subject, begun) = plane.accepted().await;
    let mut claim = plane.claim().await.unwrap();
    plane.driver().advance(&mut claim).await.unwrap();
    plane.end_leases().await;
    let (other, called_back) = plane.accepted().await;
    plane.jobs.cancel(other.account(), called_back, &Once::unkeyed()).await.unwrap();
    plane.accepted().await;

    while let Some(mut claim) = plane.claim_of(&[]).await {
        plane.drive(&mut claim).await;
    }
    plane.assert_erased(subject, begun).await;
    assert_eq!(plane.job(called_back).await.record.state, State::Thawed);
    assert_eq!(plane.count("receipts").await, 1, "the third job has not begun");
}

#[tokio::test]
async fn an_unreadable_row_does_not_delay_other_jobs() {
    let plane = Plane::new().await;
    let broken = job(&plane, Trigger::SubjectRequest, 1000).await;
    let mut owner = plane.db.owner("purge").await;
    sqlx::query("UPDATE purge_jobs SET cause = 'NO_CAUSE' WHERE purge_id = $1")
        .bind(broken.0)
        .execute(&mut owner)
        .await
        .unwrap();
    let (subject, purge_id) = plane.accepted().await;
    // The first claim leases the broken row and returns no job.
    assert!(plane.claim().await.is_none());
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn a_job_that_is_held_is_not_taken_before_its_lease_ends() {
    let plane = Plane::new().await;
    let id = job(&plane, Trigger::UserErasure, 1).await;
    let first = plane.claim().await.unwrap();
    plane.clock.advance(Duration::from_secs(3600));
    assert!(plane.claim().await.is_none(), "only the database's clock ends a lease");
    plane.end_leases().await;
    let second = plane.claim().await.unwrap();
    assert_eq!((second.job.purge_id, second.lease.epoch), (id, first.lease.epoch + 1));
}
