//! Tests holds and cancellations before and after the point of no return.

use std::time::Duration;

use chrono::TimeDelta;
use purge_svc::testing::{
    Error,
    app::{drive::Progress, holds::NewHold},
    domain::{
        hold::{Basis, Hold},
        job::{Cause, Phase, State},
    },
    fake::Fault,
    store,
};
use svc_core::{
    custody::StepKind,
    data::{idempotency::Once, pg::Tx},
    error::ServiceError,
    id::AccountId,
    subject::{Subject, SubjectKind},
};
use uuid::Uuid;

use crate::plane::Plane;

async fn hold(plane: &Plane, kind: SubjectKind, subject_id: Uuid) -> Result<Hold, Error> {
    let new = NewHold {
        kind,
        subject_id,
        basis: Basis::LegalClaim,
        reference: "HC-2026/17".to_owned(),
        ends_at: plane.now() + TimeDelta::days(30),
    };
    plane.holds.set(&new, "operator", &Once::unkeyed()).await
}

async fn hold_session(plane: &Plane, subject: Subject) -> Result<Hold, Error> {
    hold(plane, SubjectKind::Session, subject.id()).await
}

#[tokio::test]
async fn a_held_session_is_not_even_frozen() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let held = hold_session(&plane, subject).await.unwrap();
    assert_eq!(plane.run().await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!((job.record.state, job.record.cause), (State::Blocked(Phase::Pending), Some(Cause::Held)));
    assert_eq!((job.record.next_attempt_at, job.record.attempts), (held.ends_at, 0));
    assert!(plane.chat.is_live(subject) && plane.chat.write(subject));

    let released = plane.holds.release(held.hold_id, "operator", &Once::unkeyed()).await.unwrap();
    assert!(released.released_at.is_some());
    assert_eq!(plane.run().await, Progress::Final, "it resumes at once");
    plane.assert_erased(subject, purge_id).await;
    let again = plane.holds.release(held.hold_id, "other", &Once::unkeyed()).await.unwrap();
    assert_eq!(again.released_at, released.released_at);
}

#[tokio::test]
async fn a_release_waits_for_a_worker_that_read_the_hold() {
    let plane = Plane::new().await;
    let (subject, _) = plane.accepted().await;
    let held = hold(&plane, SubjectKind::Session, subject.id()).await.unwrap();
    // A worker has read the hold, and is about to store the time until which its job waits.
    let mut worker = Tx::system(&plane.pool).await.unwrap();
    store::holds::lock_subjects(&mut worker, &[held.subject_hash]).await.unwrap();
    let unkeyed = Once::unkeyed();
    let release = plane.holds.release(held.hold_id, "operator", &unkeyed);
    tokio::pin!(release);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut release).await;
    assert!(early.is_err(), "released while a worker has it locked");
    worker.commit().await.unwrap();
    assert!(release.await.unwrap().released_at.is_some());
}

#[tokio::test]
async fn a_hold_on_an_account_covers_its_sessions() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let (_, other) = plane.accepted().await;
    hold(&plane, SubjectKind::Account, subject.account().0).await.unwrap();
    hold(&plane, SubjectKind::Account, AccountId::new().0).await.unwrap();
    plane.run().await;
    plane.run().await;
    assert_eq!(plane.job(purge_id).await.record.cause, Some(Cause::Held));
    assert_eq!(plane.job(other).await.record.state, State::Committed);
    let standing = plane.holds.list(10, "").await.unwrap().items;
    assert_eq!(standing.len(), 2);
}

#[tokio::test]
async fn a_late_hold_stops_the_erasure_before_it_deletes() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let mut claim = plane.claim().await.unwrap();
    let driver = plane.driver();
    for _ in 0..2 {
        assert_eq!(driver.advance(&mut claim).await.unwrap(), Progress::Advanced);
    }
    let held = hold_session(&plane, subject).await.unwrap();
    assert_eq!(plane.drive(&mut claim).await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!((job.record.state, job.record.cause), (State::Blocked(Phase::Inventoried), Some(Cause::Held)));
    assert_eq!(plane.chat.rows(subject), 251);
    assert_eq!(plane.acts().await, Vec::<String>::new());

    // The hold ends by itself.
    plane.clock.advance((held.ends_at - plane.now()).to_std().unwrap());
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn nothing_stops_an_erasure_that_has_begun() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.chat.fail(StepKind::Erase, Fault::Unavailable, 1);
    assert_eq!(plane.run().await, Progress::Waits);
    let late = hold_session(&plane, subject).await.unwrap_err();
    assert_eq!(late.reason(), "ERASURE_STARTED");
    let late = plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap_err();
    assert_eq!(late.reason(), "ERASURE_STARTED");
    // A hold on the whole account can still be set, and protects its other data.
    hold(&plane, SubjectKind::Account, subject.account().0).await.unwrap();
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(hold_session(&plane, subject).await.unwrap_err().reason(), "ERASURE_STARTED");
    let late = plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap_err();
    assert_eq!(late.reason(), "ERASURE_STARTED");
}

#[tokio::test]
async fn a_hold_and_the_point_of_no_return_see_each_other() {
    let plane = Plane::new().await;
    for _ in 0..12 {
        let (subject, purge_id) = plane.accepted().await;
        let mut claim = plane.claim().await.unwrap();
        let driver = plane.driver();
        for _ in 0..2 {
            assert_eq!(driver.advance(&mut claim).await.unwrap(), Progress::Advanced);
        }
        let (cleared, held) = tokio::join!(driver.advance(&mut claim), hold_session(&plane, subject));
        let state = plane.job(purge_id).await.record.state;
        match (cleared.unwrap(), held) {
            (Progress::Advanced, Err(error)) => {
                assert_eq!((state, &*error.reason()), (State::Working(Phase::Erasing), "ERASURE_STARTED"));
            }
            (Progress::Waits, Ok(_)) => assert_eq!(state, State::Blocked(Phase::Inventoried)),
            (progress, held) => panic!("{progress:?} and {held:?}"),
        }
    }
}

#[tokio::test]
async fn a_hold_must_end_in_the_future() {
    let plane = Plane::new().await;
    let new = NewHold {
        kind: SubjectKind::Session,
        subject_id: plane.session().id(),
        basis: Basis::TaxRecord,
        reference: "T-1".to_owned(),
        ends_at: plane.now(),
    };
    let refused = plane.holds.set(&new, "operator", &Once::unkeyed()).await.unwrap_err();
    assert_eq!(refused.public().invalid[0].field, "ends_at");
}

#[tokio::test]
async fn a_canceled_job_changes_nothing_and_may_be_repeated() {
    let plane = Plane::new().await;
    for steps in 0..3 {
        let (subject, purge_id) = plane.accepted().await;
        let mut claim = plane.claim().await.unwrap();
        for _ in 0..steps {
            plane.driver().advance(&mut claim).await.unwrap();
        }
        let shown = plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap();
        assert!(shown.job.record.canceling);
        let again = plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap();
        assert_eq!(again.job.record, shown.job.record, "repeating it changes nothing");
        assert_eq!(plane.drive(&mut claim).await, Progress::Final);
        assert_eq!(plane.job(purge_id).await.record.state, State::Thawed, "after {steps} steps");
        for owner in plane.owners() {
            assert!(owner.write(subject), "{} admits writers again", owner.custodian());
        }
        assert_eq!(plane.chat.rows(subject), 252);

        let second = plane.accept(subject).await.job.purge_id;
        assert_ne!(second, purge_id);
        assert_eq!(plane.run().await, Progress::Final);
        plane.assert_erased(subject, second).await;
        // The receipt of the second job also cleared the subject of the first.
        assert_eq!(plane.job(purge_id).await.subject, None);
    }
}

#[tokio::test]
async fn a_late_freeze_of_a_canceled_job_is_refused() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    // Freeze fails at registry-svc, so only the other custodians are frozen.
    plane.registry.fail(StepKind::Freeze, Fault::Unavailable, 1);
    assert_eq!(plane.run().await, Progress::Waits);
    plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.run().await, Progress::Final);
    assert_eq!(plane.job(purge_id).await.record.state, State::Thawed);
    for owner in plane.owners() {
        assert!(owner.is_live(subject));
        assert!(owner.count(StepKind::Thaw) >= 1, "also who was not reached knows the purge, and its end");
    }
}

#[tokio::test]
async fn a_job_canceled_before_it_began_stops_no_writer() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.run().await, Progress::Final);
    assert_eq!(plane.job(purge_id).await.record.state, State::Thawed);
    for owner in plane.owners() {
        assert_eq!(owner.count(StepKind::Freeze), 0, "{} was stopped", owner.custodian());
        assert_eq!(owner.count(StepKind::Thaw), 1, "{} knows the purge, and its end", owner.custodian());
    }
}

#[tokio::test]
async fn a_canceled_job_waits_for_custodians_that_are_away() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let mut claim = plane.claim().await.unwrap();
    plane.driver().advance(&mut claim).await.unwrap();
    plane.sandbox.fail(StepKind::Thaw, Fault::LoseReply, 1);
    plane.jobs.cancel(subject.account(), purge_id, &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.drive(&mut claim).await, Progress::Waits);
    assert_eq!(plane.job(purge_id).await.record.cause, Some(Cause::CustodianUnavailable));
    plane.clock.advance(Duration::from_secs(60));
    assert_eq!(plane.run().await, Progress::Final);
    assert_eq!(plane.job(purge_id).await.record.state, State::Thawed);
    assert_eq!(plane.receipts().await.len(), 0);
}
