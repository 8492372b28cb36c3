//! Tests erasures in which nothing fails.

use purge_svc::testing::{
    Error,
    app::drive::Progress,
    domain::{
        custodian::Custodian,
        job::{Phase, State},
    },
    fake::Fault,
};
use svc_core::{
    custody::StepKind,
    error::ServiceError,
    id::AccountId,
    subject::{SubjectHash, SubjectKind},
};

use crate::plane::Plane;

#[tokio::test]
async fn a_session_is_erased_everywhere_and_receipted_once() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(plane.acts().await, ["purge.erasure_started", "purge.erasure_committed"]);
    assert!(plane.chat.count(StepKind::Erase) > 1, "250 rows are more than one call deletes");

    let receipt = plane.receipts().await.remove(0);
    assert_eq!(receipt.seq, 1);
    assert_eq!(receipt.body.subject_hash, SubjectHash::of(SubjectKind::Session.name(), subject.id()));
    let services: Vec<_> = receipt.body.custodians.iter().map(|digest| digest.service.as_str()).collect();
    assert_eq!(services, Custodian::ALL.map(Custodian::service));
}

#[tokio::test]
async fn a_job_passes_every_phase_in_order() {
    let plane = Plane::new().await;
    let (_, purge_id) = plane.accepted().await;
    let mut claim = plane.claim().await.unwrap();
    let driver = plane.driver();
    for phase in [Phase::Frozen, Phase::Inventoried, Phase::Erasing, Phase::Erased, Phase::Verified] {
        assert_eq!(driver.advance(&mut claim).await.unwrap(), Progress::Advanced);
        assert_eq!(claim.job.record.state, State::Working(phase));
        assert_eq!(plane.job(purge_id).await.record, claim.job.record);
    }
    assert_eq!(driver.advance(&mut claim).await.unwrap(), Progress::Final);
    assert_eq!(driver.advance(&mut claim).await.unwrap(), Progress::Final, "nothing follows the end");
}

#[tokio::test]
async fn external_objects_are_listed_before_anything_is_deleted() {
    let plane = Plane::new().await;
    let (subject, _) = plane.accepted().await;
    for owner in plane.owners() {
        owner.fail(StepKind::Erase, Fault::Unavailable, 1);
    }
    assert_eq!(plane.run().await, Progress::Waits);
    assert_eq!(plane.count("external_objects").await, 3);
    assert_eq!(plane.chat.rows(subject), 251, "nothing is deleted");
}

#[tokio::test]
async fn nothing_here_names_the_session_after_its_erasure() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.run_to_the_end(purge_id).await;

    let id = subject.id();
    let needles = [id.to_string(), id.simple().to_string()];
    let mut db = plane.db.superuser().await;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'purge'")
            .fetch_all(&mut db)
            .await
            .unwrap();
    assert!(tables.len() > 9);
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT t::text FROM purge.{table} t")))
                .fetch_all(&mut db)
                .await
                .unwrap();
        for row in rows {
            assert!(needles.iter().all(|needle| !row.contains(needle)), "{table}: {row}");
        }
    }
}

#[tokio::test]
async fn tenant_and_operators_find_a_job_without_a_subject() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.run_to_the_end(purge_id).await;
    let shown = plane.jobs.get(Some(subject.account()), purge_id).await.unwrap();
    assert_eq!(shown.job.subject, None);
    assert!(shown.receipt.is_some());
    assert!(plane.jobs.get(None, purge_id).await.unwrap().receipt.is_some());
    let foreign = plane.jobs.get(Some(AccountId::new()), purge_id).await.unwrap_err();
    assert!(matches!(foreign, Error::NotFound(_)) && foreign.reason() == "NOT_FOUND");
}

#[tokio::test]
async fn the_custodian_of_the_head_commits_last() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.registry.fail(StepKind::Commit, Fault::Unavailable, 1);
    assert_eq!(plane.run().await, Progress::Waits);
    assert_eq!(plane.job(purge_id).await.record.state, State::Working(Phase::Verified));
    assert_eq!((plane.sandbox.count(StepKind::Commit), plane.chat.count(StepKind::Commit)), (1, 0));
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(plane.sandbox.count(StepKind::Commit), 1, "who has committed is not asked again");
}

#[tokio::test]
async fn receipts_of_many_erasures_form_one_chain() {
    let plane = Plane::new().await;
    for _ in 0..5 {
        let (subject, purge_id) = plane.accepted().await;
        plane.run_to_the_end(purge_id).await;
        plane.assert_erased(subject, purge_id).await;
    }
    let checked = plane.ledger.check().await.unwrap();
    assert_eq!((checked.head.seq, checked.broken), (5, None));
}
