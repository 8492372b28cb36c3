//! Tests faults that stop an erasure, and how it continues after them.

use std::time::Duration;

use purge_svc::testing::{
    Entity, Error,
    app::drive::Progress,
    domain::{
        custodian::Custodian,
        dead_letter::DeadLetter,
        external::ItemOutcome,
        job::{Cause, Phase, State},
    },
    fake::Fault,
};
use svc_core::{
    custody::StepKind,
    data::idempotency::{self, Once, RequestHash},
    id::new_id,
};

use crate::plane::{Plane, until_called};

#[tokio::test]
async fn residue_blocks_until_it_is_erased_too() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.sandbox.leave_residue(7);
    assert_eq!(plane.run().await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!(job.record.state, State::Blocked(Phase::Erasing));
    assert_eq!((job.record.cause, job.record.rounds), (Some(Cause::Residue), 1));
    assert_eq!(job.waits_for, Some(Custodian::Sandbox));
    assert_eq!((plane.sandbox.rows(subject), plane.receipts().await.len()), (7, 0));
    assert_eq!(plane.sandbox.count(StepKind::Commit), 0);

    plane.clock.advance(Duration::from_secs(60));
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(plane.receipts().await[0].body.rounds, 1);
}

#[tokio::test]
async fn residue_that_comes_again_and_again_is_never_receipted() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    for round in 1..=5 {
        plane.chat.leave_residue(1);
        assert_eq!(plane.run().await, Progress::Waits);
        let job = plane.job(purge_id).await;
        assert_eq!((job.record.state, job.record.rounds), (State::Blocked(Phase::Erasing), round));
        plane.clock.advance(Duration::from_secs(7200));
    }
    assert_eq!(plane.count("receipts").await, 0);
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
}

async fn letters(plane: &Plane) -> Vec<DeadLetter> {
    plane.dead_letters.list(50, "").await.unwrap().items
}

/// Waits until there is a dead letter, and returns it.
async fn first_letter(plane: &Plane) -> DeadLetter {
    loop {
        match letters(plane).await.pop() {
            Some(letter) => return letter,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_waits_for_an_operator() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let volume = format!("volume-{}", subject.id());
    plane.sandbox.jam(&volume, ItemOutcome::Permanent, "VOLUME_REFUSED");
    assert_eq!(plane.run().await, Progress::Waits);

    let job = plane.job(purge_id).await;
    assert_eq!((job.record.state, job.record.cause), (State::DeadLettered, Some(Cause::ItemsPermanent)));
    plane.clock.advance(Duration::from_secs(86_400));
    assert!(plane.claim().await.is_none(), "no worker takes it");
    let found = letters(&plane).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].code.as_str(), found[0].object_id.as_deref()),
        ("VOLUME_REFUSED", Some(volume.as_str()))
    );

    // The operator resolves the letter too early, so the next attempt writes a new one.
    plane.dead_letters.resolve(found[0].dead_letter_id, "operator", &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.run().await, Progress::Waits);
    assert_eq!(plane.job(purge_id).await.record.state, State::DeadLettered);
    let again = letters(&plane).await;
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].dead_letter_id, found[0].dead_letter_id);

    plane.sandbox.unjam(&volume);
    let keyed = |id: uuid::Uuid| {
        let hash = RequestHash::of(&id.to_string());
        Once::new("ResolveDeadLetter", "k".parse().unwrap(), hash)
    };
    let once = keyed(again[0].dead_letter_id);
    let settled = plane.dead_letters.resolve(again[0].dead_letter_id, "operator", &once).await.unwrap();
    let repeated = plane.dead_letters.resolve(again[0].dead_letter_id, "operator", &once).await.unwrap();
    assert_eq!(repeated, settled);
    let other = new_id();
    let reused = plane.dead_letters.resolve(other, "operator", &keyed(other)).await.unwrap_err();
    assert!(matches!(reused, Error::Idempotency(idempotency::Error::Reused)), "{reused:?}");
    assert!(settled.resolved_at.is_some());
    assert_eq!(plane.job(purge_id).await.record.state, State::Working(Phase::Erasing));
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
    assert!(letters(&plane).await.is_empty());

    // Resolving twice changes nothing, and the letters no longer name the objects.
    let forgotten =
        plane.dead_letters.resolve(again[0].dead_letter_id, "other", &Once::unkeyed()).await.unwrap();
    assert_eq!((forgotten.object_id, forgotten.resolved_at), (None, settled.resolved_at));
    let unknown = plane.dead_letters.resolve(new_id(), "operator", &Once::unkeyed()).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(Entity::DeadLetter)));
}

#[tokio::test]
async fn a_job_resumes_with_the_last_of_its_letters() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    for object in [format!("box-{}", subject.id()), format!("volume-{}", subject.id())] {
        plane.sandbox.jam(&object, ItemOutcome::Permanent, "REFUSED");
    }
    assert_eq!(plane.run().await, Progress::Waits);
    let found = letters(&plane).await;
    assert_eq!(found.len(), 2);
    plane.dead_letters.resolve(found[0].dead_letter_id, "operator", &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.job(purge_id).await.record.state, State::DeadLettered);
    for object in [format!("box-{}", subject.id()), format!("volume-{}", subject.id())] {
        plane.sandbox.unjam(&object);
    }
    plane.dead_letters.resolve(found[1].dead_letter_id, "operator", &Once::unkeyed()).await.unwrap();
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn a_letter_resolved_while_its_job_stops_is_not_lost() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let volume = format!("volume-{}", subject.id());
    plane.sandbox.jam(&volume, ItemOutcome::Permanent, "REFUSED");
    // Stalls Erase at registry-svc: the letter of sandbox-svc is written meanwhile, but the job is
    // dead-lettered only after registry-svc has answered.
    plane.registry.fail(StepKind::Erase, Fault::Stall, 1);
    let settle = async {
        let letter = first_letter(&plane).await;
        until_called(&plane.registry, StepKind::Erase, 1).await;
        plane.sandbox.unjam(&volume);
        plane.dead_letters.resolve(letter.dead_letter_id, "operator", &Once::unkeyed()).await.unwrap();
        plane.registry.resume();
    };
    let (progress, ()) = tokio::join!(plane.run(), settle);
    assert_eq!(progress, Progress::Waits);
    assert_eq!(plane.job(purge_id).await.record.state, State::Working(Phase::Erasing));
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn a_custodian_that_makes_progress_gets_no_letter_yet() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let volume = format!("volume-{}", subject.id());
    plane.sandbox.jam(&volume, ItemOutcome::Permanent, "REFUSED");
    // The first call to sandbox-svc deletes everything except the volume. The worker dies while it waits for
    // the second.
    plane.sandbox.fail_after(StepKind::Erase, 1, Fault::Stall);
    let mut claim = plane.claim().await.unwrap();
    tokio::select! {
        _ = plane.drive(&mut claim) => panic!("an owner stalls"),
        () = until_called(&plane.sandbox, StepKind::Erase, 2) => {}
    }
    plane.end_leases().await;
    plane.sandbox.unjam(&volume);
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(plane.count("dead_letters").await, 0);
}

#[tokio::test]
async fn a_job_resolves_letters_of_objects_it_could_delete() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let volume = format!("volume-{}", subject.id());
    plane.sandbox.jam(&volume, ItemOutcome::Permanent, "REFUSED");
    // Stalls Erase at registry-svc, so that the worker dies after the letter is written and before the job is
    // dead-lettered.
    plane.registry.fail(StepKind::Erase, Fault::Stall, 1);
    let mut claim = plane.claim().await.unwrap();
    tokio::select! {
        _ = plane.drive(&mut claim) => panic!("an owner stalls"),
        _ = first_letter(&plane) => {}
    }
    plane.end_leases().await;
    plane.sandbox.unjam(&volume);
    assert_eq!(plane.run().await, Progress::Final);
    plane.assert_erased(subject, purge_id).await;
    assert!(letters(&plane).await.is_empty());
    assert_eq!(plane.count("dead_letters").await, 1, "that there was one stays known");
}

#[tokio::test]
async fn a_transient_object_is_tried_again() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    let object = format!("box-{}", subject.id());
    plane.sandbox.jam(&object, ItemOutcome::Transient, "ENGINE_BUSY");
    assert_eq!(plane.run().await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!(
        (job.record.state, job.record.cause),
        (State::Working(Phase::Erasing), Some(Cause::ItemsTransient))
    );
    assert!(letters(&plane).await.is_empty(), "it is no dead letter");
    plane.sandbox.unjam(&object);
    let asked = plane.chat.count(StepKind::Erase);
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
    assert_eq!(plane.chat.count(StepKind::Erase), asked, "who was through is not asked again");
}

#[tokio::test]
async fn a_missing_custodian_stops_a_job_before_it_starts() {
    let mut plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.servings.remove(0);
    for attempt in 1..=3 {
        assert_eq!(plane.run().await, Progress::Waits);
        let job = plane.job(purge_id).await;
        assert_eq!(
            (job.record.cause, job.waits_for),
            (Some(Cause::CustodianUnavailable), Some(Custodian::Registry))
        );
        assert_eq!(job.record.attempts, attempt);
        let state = if attempt < 3 { State::Working(Phase::Pending) } else { State::Blocked(Phase::Pending) };
        assert_eq!(job.record.state, state, "parked at the third failure");
        plane.clock.advance(Duration::from_secs(3600));
    }
    for owner in plane.owners() {
        assert!(owner.calls().is_empty(), "no custodian was called");
        assert!(owner.is_live(subject));
    }
}

#[tokio::test]
async fn another_contract_version_stops_a_job_before_it_starts() {
    let plane = Plane::requiring(&["chat.rows"]).await;
    let (subject, purge_id) = plane.accepted().await;
    plane.registry.speak(2);
    assert_eq!(plane.run().await, Progress::Waits);
    assert_eq!(plane.job(purge_id).await.record.cause, Some(Cause::ContractMismatch));
    assert!(plane.chat.is_live(subject));
    plane.registry.speak(1);
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn a_missing_kind_stops_a_job_before_it_starts() {
    let plane = Plane::requiring(&["chat.rows", "chat.blobs"]).await;
    let (subject, purge_id) = plane.accepted().await;
    assert_eq!(plane.run().await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!((job.record.cause, job.waits_for), (Some(Cause::ContractMismatch), Some(Custodian::Chat)));
    assert!(plane.chat.is_live(subject) && plane.sandbox.is_live(subject));
}

#[tokio::test]
async fn an_undeclared_kind_stops_a_job_before_it_deletes() {
    let plane = Plane::new().await;
    let (subject, purge_id) = plane.accepted().await;
    plane.sandbox.hide_a_kind(Some("sandbox.secrets"));
    assert_eq!(plane.run().await, Progress::Waits);
    let job = plane.job(purge_id).await;
    assert_eq!(
        (job.record.state, job.record.cause),
        (State::Working(Phase::Frozen), Some(Cause::KindUndeclared))
    );
    for owner in plane.owners() {
        assert_eq!(owner.count(StepKind::Erase), 0);
    }
    plane.sandbox.hide_a_kind(None);
    plane.run_to_the_end(purge_id).await;
    plane.assert_erased(subject, purge_id).await;
}

#[tokio::test]
async fn a_job_that_keeps_failing_does_not_delay_other_jobs() {
    let plane = Plane::new().await;
    let (_, poison) = plane.accepted().await;
    plane.registry.fail(StepKind::Freeze, Fault::Unavailable, 1);
    assert_eq!(plane.run().await, Progress::Waits);
    let mut healthy = Vec::new();
    for _ in 0..3 {
        healthy.push(plane.accepted().await);
    }
    // All jobs are due; the failed one comes last among jobs of its priority.
    plane.clock.advance(Duration::from_secs(10));
    for (subject, purge_id) in healthy {
        assert_eq!(plane.run().await, Progress::Final);
        plane.assert_erased(subject, purge_id).await;
    }
    assert_eq!(plane.job(poison).await.record.state, State::Working(Phase::Pending));
}
