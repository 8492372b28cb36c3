//! Tests the creation of containers while the engine or the worker fails.

use std::time::Duration;

use sandbox_svc::testing::{
    Creator, HostLevel, deadlines,
    domain::{
        sandbox::{Cause, State},
        spec::{ContainerSpec, VolumeSpec},
    },
    engine::{
        ContainerEngine, Handle, Observed,
        fake::{Fault, Verb},
    },
    pool,
    store::sandboxes,
};

use crate::plane::{ENGINE, Plane};

#[tokio::test]
async fn a_container_is_created_though_every_first_answer_is_lost() {
    let plane = Plane::start().await;
    plane.engine.fault(Verb::CreateVolume, Fault::LoseReply);
    plane.engine.fault(Verb::Create, Fault::LoseReply);
    plane.engine.fault(Verb::Start, Fault::LoseReply);
    let sandbox = plane.running(plane.owner()).await;
    let containers = plane.engine.containers();
    assert_eq!(containers.len(), 1);
    assert_eq!(sandbox.container.unwrap().id, Some(containers[0].id.0.clone()));
    assert_eq!(plane.engine.calls(Verb::Create), 1, "the container was found by its name, yet created again");
}

#[tokio::test]
async fn a_late_create_finds_its_own_container_and_adds_none() {
    let plane = Plane::start().await;
    plane.engine.fault(Verb::Create, Fault::Late);
    plane.running(plane.owner()).await;
    assert_eq!(plane.engine.arrive(), 0);
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_failed_creation_has_its_cause_and_leaves_nothing() {
    for (verb, fault, cause) in [
        (Verb::Image, Fault::Fail(404), Cause::ImageMissing),
        (Verb::Create, Fault::Fail(404), Cause::ImageMissing),
        (Verb::Create, Fault::Fail(400), Cause::EngineRefused),
        (Verb::CreateVolume, Fault::Fail(400), Cause::EngineRefused),
    ] {
        let plane = Plane::start().await;
        plane.engine.fault(verb, fault);
        let requested = plane.create(plane.owner()).await;
        plane.make_all().await;
        let deleting = plane.sandbox(requested.id).await;
        assert_eq!((deleting.state, deleting.cause), (State::Deleting, Some(cause)), "{verb:?} {fault:?}");
        plane.clock.advance(Duration::from_secs(181));
        plane.remove_all().await;
        assert_eq!(plane.state(requested.id).await, State::Failed, "{verb:?} {fault:?}");
        assert!(plane.engine.containers().is_empty() && plane.run_dirs().is_empty(), "{verb:?} {fault:?}");
    }
}

#[tokio::test]
async fn a_container_that_does_not_start_is_given_up() {
    let plane = Plane::start().await;
    for _ in 0..3 {
        plane.engine.fault(Verb::Start, Fault::Fail(500));
    }
    let requested = plane.create(plane.owner()).await;
    plane.make_all().await;
    assert_eq!(plane.sandbox(requested.id).await.cause, Some(Cause::EngineRefused));
    // The container's id is confirmed, so the removal waits for no late create.
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Failed);
    assert!(plane.engine.containers().is_empty());
}

#[tokio::test]
async fn the_cap_bounds_the_creations_of_all_replicas_together() {
    let plane = Plane::start().await;
    for _ in 0..6 {
        plane.create(plane.owner()).await;
        plane.engine.fault(Verb::Create, Fault::Stall);
    }
    let replicas = [plane.replica.clone(), plane.another().await];
    let mut jobs = Vec::new();
    for round in 0..8 {
        jobs.extend(replicas[round % 2].creator.take_next(true).await.unwrap());
    }
    assert_eq!(jobs.len(), 4);
    let mut db = plane.replica.deps.pool.acquire().await.unwrap();
    assert_eq!(sandboxes::in_states(&mut db, ENGINE, &[State::Creating]).await.unwrap().len(), 4);
}

#[tokio::test]
async fn no_more_memory_is_allotted_than_the_host_may_give() {
    let plane = Plane::start().await;
    // The host has 16 GiB of memory, and 24 GiB may be allotted; a sandbox needs 1 GiB.
    for _ in 0..25 {
        plane.create(plane.owner()).await;
    }
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 24);
}

#[tokio::test]
async fn a_waiting_session_displaces_a_pooled_sandbox() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    let host = HostLevel::default();
    // The session has a workspace, so its next sandbox is created, never claimed.
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    for _ in 0..22 {
        plane.create(plane.owner()).await;
    }
    plane.make_all().await;
    pool::pass(&plane.with_pool(2), &host, &mut lease).await.unwrap();
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 24, "22 and two of the pool: all memory is allotted");

    let back = plane.create(owner).await;
    // Each attempt retires at most one pooled sandbox, and none while that removal is running.
    for _ in 0..3 {
        plane.make_all().await;
    }
    assert_eq!(plane.state(back.id).await, State::Requested);
    plane.remove_all().await;
    assert_eq!(plane.engine.containers().len(), 23);
    plane.make_all().await;
    assert_eq!(plane.state(back.id).await, State::Running);
}

#[tokio::test]
async fn sessions_are_served_before_the_pool_in_their_order() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    let host = HostLevel::default();
    pool::pass(&plane.with_pool(1), &host, &mut lease).await.unwrap();
    let (first, second) = (plane.create(plane.owner()).await, plane.create(plane.owner()).await);
    let mut order = Vec::new();
    for _ in 0..3 {
        let job = plane.replica.creator.take_next(true).await.unwrap().unwrap();
        order.push(job.sandbox.id);
    }
    assert_eq!(order[..2], [first.id, second.id]);
    assert!(plane.replica.creator.take_next(true).await.unwrap().is_none());
}

#[tokio::test]
async fn a_sandbox_deleted_during_creation_leaves_no_container() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = plane.replica.creator.take_next(true).await.unwrap().unwrap();
    plane.delete(&plane.sandbox(requested.id).await).await;
    plane.remove_all().await;
    // The sandbox is not gone yet: an unconfirmed create could still be under way.
    assert_eq!(plane.state(requested.id).await, State::Deleting);
    // The worker resumes late and repeats the create: the engine refuses it.
    plane.replica.creator.create(job).await.unwrap();
    assert!(plane.engine.containers().is_empty());
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Gone);
    assert!(plane.run_dirs().is_empty());
}

#[tokio::test]
async fn a_create_that_arrives_after_the_removal_is_refused() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = plane.replica.creator.take_next(true).await.unwrap().unwrap();
    // The daemon delays the first and the second create; meanwhile the sandbox is deleted.
    for _ in 0..2 {
        plane.engine.fault(Verb::Create, Fault::Late);
    }
    plane.engine.fault(Verb::Create, Fault::Stall);
    let creation = tokio::time::timeout(Duration::from_millis(600), plane.replica.creator.create(job));
    assert!(creation.await.is_err(), "the creation should hang");
    plane.delete(&plane.sandbox(requested.id).await).await;
    plane.remove_all().await;
    assert_eq!(plane.engine.arrive(), 0, "the daemon created a container for a removed sandbox");
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Gone);
}

#[tokio::test]
async fn a_worker_adopts_the_container_of_one_that_died() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = plane.replica.creator.take_next(true).await.unwrap().unwrap();
    // The worker creates the container and dies before it writes the id.
    plane.engine.create_volume(&VolumeSpec::of("test", &job.sandbox)).await.unwrap();
    let made = plane.engine.create(&plane.spec(&job.sandbox)).await.unwrap();
    expire_lease(&plane, requested.id).await;

    let survivor = Creator { deps: plane.another().await.deps, holder: "survivor".into() };
    let taken = survivor.take_over(requested.id, job.sandbox.epoch).await.unwrap().unwrap();
    // Only one worker takes over.
    let late = plane.replica.creator.take_over(requested.id, job.sandbox.epoch).await.unwrap();
    assert!(late.is_none());
    survivor.create(taken).await.unwrap();
    let running = plane.sandbox(requested.id).await;
    assert_eq!(
        (running.state, running.cause, running.container.unwrap().id),
        (State::Running, None, Some(made.0))
    );
    // The first worker resumes: its writes change nothing.
    plane.replica.creator.create(job).await.unwrap();
    assert_eq!(plane.state(requested.id).await, State::Running);
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_foreign_container_of_the_same_name_is_left_alone() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = plane.replica.creator.take_next(true).await.unwrap().unwrap();
    let foreign = ContainerSpec { labels: [].into(), ..plane.spec(&job.sandbox) };
    let id = plane.engine.create(&foreign).await.unwrap();
    plane.replica.creator.create(job).await.unwrap();
    assert_eq!(plane.sandbox(requested.id).await.cause, Some(Cause::EngineRefused));
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Failed);
    assert!(matches!(plane.engine.observe(Handle::Id(&id)).await, Observed::Present(_)));
}

#[tokio::test]
async fn a_request_that_is_not_served_in_time_fails() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    plane.clock.advance(Duration::from_secs(600));
    assert_eq!(deadlines::sweep(&plane.replica.deps).await.unwrap(), 1);
    plane.remove_all().await;
    let failed = plane.sandbox(requested.id).await;
    assert_eq!((failed.state, failed.cause), (State::Failed, Some(Cause::CreateTimeout)));
}

#[tokio::test]
async fn an_engine_that_does_not_answer_changes_nothing() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    plane.engine.fault(Verb::Image, Fault::Stall);
    assert!(plane.replica.creator.create_next().await.is_err());
    assert_eq!(plane.state(requested.id).await, State::Requested);
    assert!(plane.run_dirs().is_empty());
    plane.make_all().await;
    assert_eq!(plane.state(requested.id).await, State::Running);
}

/// Lets the lease of a dead worker run out.
async fn expire_lease(plane: &Plane, id: svc_core::id::SandboxId) {
    let mut db = plane.db.owner("sandbox").await;
    sqlx::query("UPDATE sandboxes SET lease_until = now() - interval '1 second' WHERE id = $1")
        .bind(id.0)
        .execute(&mut db)
        .await
        .unwrap();
}
