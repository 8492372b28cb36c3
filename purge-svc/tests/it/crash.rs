//! Tests workers that die, lose their lease, or lose answers: another worker continues the erasure, and it
//! has one receipt in the end.

use std::time::Duration;

use purge_svc::testing::{
    app::{
        claims::{Claiming, Claims},
        drive::Progress,
        run::Runner,
    },
    domain::{
        job::{Cause, State},
        trigger::Trigger,
    },
    fake::{FakeCustodian, Fault},
    worker::drive::Worker,
};
use svc_core::{
    custody::StepKind, data::pg::Pool, run::lifecycle::Lifecycle, subject::Subject, testing::FaultProxy,
};

use crate::plane::{Plane, until_called};

/// Steps of every erasure.
const STEPS: [StepKind; 5] =
    [StepKind::Freeze, StepKind::Inventory, StepKind::Erase, StepKind::Verify, StepKind::Commit];

/// Checks that no custodian was called with an epoch below one that it had seen of the subject.
fn assert_epochs_grow(plane: &Plane, subject: Subject) {
    for owner in plane.owners() {
        let ours = owner.calls().into_iter().filter(|call| call.subject == subject);
        let epochs: Vec<i64> = ours.map(|call| call.epoch).collect();
        assert!(epochs.is_sorted() && !epochs.is_empty(), "{}: {epochs:?}", owner.custodian());
    }
}

#[tokio::test]
async fn a_worker_that_dies_between_any_two_steps_is_replaced() {
    let plane = Plane::new().await;
    for steps in 0..6 {
        let (subject, purge_id) = plane.accepted().await;
        let mut dying = plane.claim().await.unwrap();
        for _ in 0..steps {
            assert_eq!(plane.driver().advance(&mut dying).await.unwrap(), Progress::Advanced);
        }
        assert!(plane.claim().await.is_none(), "its lease still stands");
        drop(dying);
        plane.end_leases().await;

        let mut successor = plane.claim().await.unwrap();
        assert_eq!(successor.lease.epoch, 2);
        assert_eq!(plane.drive(&mut successor).await, Progress::Final);
        plane.assert_erased(subject, purge_id).await;
        assert_epochs_grow(&plane, subject);
    }
    assert_eq!(plane.receipts().await.len(), 6);
    assert_eq!(plane.acts().await.len(), 12);
}

#[tokio::test]
async fn a_worker_that_dies_within_any_call_is_replaced() {
    let plane = Plane::new().await;
    for step in STEPS {
        for victim in 0..3 {
            let (subject, purge_id) = plane.accepted().await;
            let owner = plane.owners()[victim];
            owner.fail(step, Fault::Stall, 1);
            let before = owner.count(step);
            let mut dying = plane.claim().await.unwrap();
            let driver = plane.driver();
            tokio::select! {
                () = async { while driver.advance(&mut dying).await.unwrap() == Progress::Advanced {} } => {
                    panic!("{step:?} stalls")
                }
                () = until_called(owner, step, before + 1) => {}
            }
            drop(dying);
            plane.end_leases().await;
            assert_eq!(plane.run().await, Progress::Final, "{step:?} at {}", owner.custodian());
            plane.assert_erased(subject, purge_id).await;
            assert_epochs_grow(&plane, subject);
        }
    }
    assert_eq!(plane.receipts().await.len(), STEPS.len() * 3);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let plane = Plane::new().await;
    for step in STEPS {
        for owner in plane.owners() {
            let (subject, purge_id) = plane.accepted().await;
            owner.fail(step, Fault::LoseReply, 1);
            assert_eq!(plane.run().await, Progress::Waits, "{step:?} at {}", owner.custodian());
            let job = plane.job(purge_id).await;
            assert_eq!(job.record.cause, Some(Cause::CustodianUnavailable));
            assert_eq!((job.waits_for, job.record.attempts), (Some(owner.custodian()), 1));
            assert!(plane.claim().await.is_none(), "it waits for its next attempt");
            plane.run_to_the_end(purge_id).await;
            plane.assert_erased(subject, purge_id).await;
        }
    }
    assert_eq!(plane.receipts().await.len(), STEPS.len() * 3);
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_writes_nothing() {
    let plane = Plane::new().await;
    for step in STEPS {
        let (subject, purge_id) = plane.accepted().await;
        plane.sandbox.fail(step, Fault::Stall, 1);
        let before = plane.sandbox.count(step);
        let mut slow = plane.claim().await.unwrap();
        let driver = plane.driver();
        let overtaken = async {
            loop {
                match driver.advance(&mut slow).await.unwrap() {
                    Progress::Advanced => {}
                    rest => return rest,
                }
            }
        };
        let successor = async {
            until_called(&plane.sandbox, step, before + 1).await;
            plane.end_leases().await;
            let rest = plane.run().await;
            let written = plane.job(purge_id).await;
            plane.sandbox.resume();
            (rest, written)
        };
        let (overtaken, (rest, written)) = tokio::join!(overtaken, successor);
        assert_eq!(rest, Progress::Final, "{step:?}");
        assert_eq!(overtaken, Progress::Lost, "{step:?}");
        assert_eq!(plane.job(purge_id).await, written, "{step:?}");
        plane.assert_erased(subject, purge_id).await;
        assert_epochs_grow(&plane, subject);
    }
}

#[tokio::test]
async fn custodians_refuse_a_worker_that_lost_its_lease() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let mut slow = plane.claim().await.unwrap();
    plane.end_leases().await;
    // Stalls the next worker's Freeze, so that every custodian has seen its epoch and none has answered.
    plane.owners().into_iter().for_each(|owner| owner.fail(StepKind::Freeze, Fault::Stall, 1));
    let mut successor = plane.claim().await.unwrap();
    let driver = plane.driver();
    let overtaken = async {
        while plane.owners().iter().any(|owner| owner.calls().is_empty()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let before = plane.job(purge_id).await;
        assert_eq!(plane.driver().advance(&mut slow).await.unwrap(), Progress::Lost);
        assert_eq!(plane.job(purge_id).await, before);
        plane.owners().into_iter().for_each(FakeCustodian::resume);
    };
    let (asked, ()) = tokio::join!(driver.advance(&mut successor), overtaken);
    assert_eq!(asked.unwrap(), Progress::Advanced);
    for owner in plane.owners() {
        let epochs: Vec<i64> = owner.calls().iter().map(|call| call.epoch).collect();
        assert_eq!(epochs, [2, 1], "{} heard the slow one last", owner.custodian());
    }
    assert_eq!(plane.drive(&mut successor).await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn workers_outlive_a_database_that_comes_and_goes() {
    let plane = Plane::new().await;
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(plane.accepted().await);
    }
    let proxy = FaultProxy::start(plane.db.address()).await;
    let shaky = Pool::lazy(&plane.db.config_through("purge", proxy.address())).unwrap();
    let lifecycle = Lifecycle::new();
    worker_in(&plane, shaky, &lifecycle, "shaky").start();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(35)).await;
        proxy.cut();
    }
    until_committed(&plane, 8).await;
    for (subject, purge_id) in jobs {
        plane.assert_erased(subject, purge_id).await;
    }
    assert_eq!(plane.receipts().await.len(), 8);
    lifecycle.stop();
}

fn worker(plane: &Plane, lifecycle: &Lifecycle, holder: &str) -> Worker {
    worker_in(plane, plane.pool.clone(), lifecycle, holder)
}

fn worker_in(plane: &Plane, pool: Pool, lifecycle: &Lifecycle, holder: &str) -> Worker {
    let claiming = Claiming {
        holder: holder.to_owned(),
        ttl: Duration::from_millis(900),
        triggers: Trigger::ALL.into(),
    };
    let claims = Claims::new(pool.clone(), plane.clock.clone(), claiming);
    Worker {
        runner: Runner::new(claims, plane.driver_in(pool)),
        wake: plane.wake.clone(),
        lifecycle: lifecycle.clone(),
        poll: Duration::from_millis(50),
        concurrency: 4,
    }
}

async fn until_committed(plane: &Plane, jobs: i64) {
    let committed = async {
        while plane.count("receipts").await < jobs {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), committed).await.expect("every erasure is committed");
}

#[tokio::test]
async fn replicas_share_the_jobs_and_each_is_receipted_once() {
    let plane = Plane::new().await;
    let mut jobs = Vec::new();
    for _ in 0..24 {
        jobs.push(plane.accepted().await);
    }
    let replicas = [Lifecycle::new(), Lifecycle::new()];
    for (number, lifecycle) in replicas.iter().enumerate() {
        worker(&plane, lifecycle, &format!("replica-{number}")).start();
    }
    until_committed(&plane, 24).await;
    for (subject, purge_id) in jobs {
        plane.assert_erased(subject, purge_id).await;
    }
    for lifecycle in &replicas {
        lifecycle.stop();
        lifecycle.run_until_stopped(Duration::from_secs(5)).await;
    }
    let left: i64 = {
        let mut db = plane.pool.acquire().await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM purge_jobs WHERE lease_until IS NOT NULL")
            .fetch_one(&mut *db)
            .await
            .unwrap()
    };
    assert_eq!(left, 0, "leases are given back");
}

#[tokio::test]
async fn a_replica_takes_over_from_one_that_hangs() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.chat.fail(StepKind::Erase, Fault::Stall, 1);
    let mut hanging = plane.claim().await.unwrap();
    let driver = plane.driver();
    let hangs = async { while driver.advance(&mut hanging).await.unwrap() == Progress::Advanced {} };
    let takes_over = async {
        until_called(&plane.chat, StepKind::Erase, 1).await;
        // Expires the lease of the hanging worker, which no task renews in this test.
        plane.end_leases().await;
        let lifecycle = Lifecycle::new();
        worker(&plane, &lifecycle, "replica").start();
        until_committed(&plane, 1).await;
        lifecycle.stop();
    };
    tokio::select! {
        () = hangs => panic!("it hangs"),
        () = takes_over => {}
    }
    plane.assert_erased(subject, purge_id).await;
    assert!(matches!(plane.job(purge_id).await.record.state, State::Committed));
}
