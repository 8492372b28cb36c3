//! Making containers while the engine, or the worker, does what it should not.

use std::time::Duration;

use sandbox_svc::{
    app::making,
    domain::sandbox::{Cause, State},
    engine::{
        ContainerEngine, Handle,
        fake::{Fault, Verb},
    },
    store::sandboxes,
    worker::{creator::make_next, deadlines},
};

use crate::plane::{ENGINE, Plane};

#[tokio::test]
async fn a_container_is_made_even_if_every_first_answer_is_lost() {
    let plane = Plane::start().await;
    plane.engine.fault(Verb::CreateVolume, Fault::LoseReply);
    plane.engine.fault(Verb::Create, Fault::LoseReply);
    plane.engine.fault(Verb::Start, Fault::LoseReply);
    let sandbox = plane.running(plane.owner()).await;
    let containers = plane.engine.containers();
    assert_eq!(containers.len(), 1);
    assert_eq!(sandbox.container.unwrap().id, Some(containers[0].id.0.clone()));
    assert_eq!(plane.engine.calls(Verb::Create), 1, "what was there by its name is made again");
}

#[tokio::test]
async fn a_create_that_arrives_late_meets_its_own_and_makes_no_second() {
    let plane = Plane::start().await;
    plane.engine.fault(Verb::Create, Fault::Late);
    plane.running(plane.owner()).await;
    assert_eq!(plane.engine.arrive(), 0);
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_made_fails_with_its_cause_and_leaves_nothing() {
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
async fn a_container_that_does_not_start_is_given_up_after_a_few_tries() {
    let plane = Plane::start().await;
    for _ in 0..3 {
        plane.engine.fault(Verb::Start, Fault::Fail(500));
    }
    let requested = plane.create(plane.owner()).await;
    plane.make_all().await;
    assert_eq!(plane.sandbox(requested.id).await.cause, Some(Cause::EngineRefused));
    // Its id is confirmed: nobody waits for a forgotten create.
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Failed);
    assert!(plane.engine.containers().is_empty());
}

#[tokio::test]
async fn as_many_as_the_cap_are_made_at_once_by_however_many_replicas() {
    let plane = Plane::start().await;
    for _ in 0..6 {
        plane.create(plane.owner()).await;
        plane.engine.fault(Verb::Create, Fault::Stall);
    }
    let replicas = [plane.ctx.clone(), plane.replica().await];
    let mut jobs = Vec::new();
    for round in 0..8 {
        let ctx = &replicas[round % 2];
        jobs.extend(making::take_next(ctx, ctx.served().unwrap(), "maker", true).await.unwrap());
    }
    assert_eq!(jobs.len(), 4);
    let mut db = plane.ctx.pool.acquire().await.unwrap();
    assert_eq!(sandboxes::in_states(&mut db, ENGINE, &[State::Creating]).await.unwrap().len(), 4);
}

#[tokio::test]
async fn memory_that_the_host_does_not_have_is_not_promised() {
    let plane = Plane::start().await;
    // The host has 16 GiB and promises 24; a sandbox takes one.
    for _ in 0..25 {
        plane.create(plane.owner()).await;
    }
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 24);
}

#[tokio::test]
async fn the_pool_gives_way_to_those_who_wait() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    let host = sandbox_svc::worker::host::HostLevel::default();
    // One who comes back: around its workspace a sandbox is made, never claimed.
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    for _ in 0..22 {
        plane.create(plane.owner()).await;
    }
    plane.make_all().await;
    sandbox_svc::worker::pool::pass(&plane.ctx, &plane.pool_config(2), &host, &mut kept).await.unwrap();
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 24, "22 and two that wait: all that is promised");

    let back = plane.create(owner).await;
    // Every look gives way by one place at most, and by none while that is on its way.
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
async fn users_are_served_before_the_pool_in_the_order_they_came() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    let host = sandbox_svc::worker::host::HostLevel::default();
    sandbox_svc::worker::pool::pass(&plane.ctx, &plane.pool_config(1), &host, &mut kept).await.unwrap();
    let (first, second) = (plane.create(plane.owner()).await, plane.create(plane.owner()).await);
    let mut order = Vec::new();
    for _ in 0..3 {
        let job = making::take_next(&plane.ctx, plane.served(), "maker", true).await.unwrap().unwrap();
        order.push(job.sandbox.id);
    }
    assert_eq!(order[..2], [first.id, second.id]);
    assert!(making::take_next(&plane.ctx, plane.served(), "maker", true).await.unwrap().is_none());
}

#[tokio::test]
async fn a_sandbox_deleted_while_it_is_made_leaves_no_container() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = making::take_next(&plane.ctx, plane.served(), "maker", true).await.unwrap().unwrap();
    plane.delete(&plane.sandbox(requested.id).await).await;
    plane.remove_all().await;
    // Not gone yet: a create that nobody remembers could still be under way.
    assert_eq!(plane.state(requested.id).await, State::Deleting);
    // The worker wakes up late and goes on as if nothing had happened: the engine refuses it.
    making::make(&plane.ctx, plane.served(), job).await.unwrap();
    assert!(plane.engine.containers().is_empty());
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Gone);
    assert!(plane.run_dirs().is_empty());
}

#[tokio::test]
async fn a_create_that_arrives_after_the_removal_makes_no_container() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = making::take_next(&plane.ctx, plane.served(), "maker", true).await.unwrap().unwrap();
    // The daemon hangs on to the first create; the second, too; meanwhile it is deleted.
    for _ in 0..2 {
        plane.engine.fault(Verb::Create, Fault::Late);
    }
    plane.engine.fault(Verb::Create, Fault::Stall);
    let ctx = plane.ctx.clone();
    let making = tokio::time::timeout(Duration::from_millis(600), making::make(&ctx, plane.served(), job));
    assert!(making.await.is_err(), "it should be stuck");
    plane.delete(&plane.sandbox(requested.id).await).await;
    plane.remove_all().await;
    assert_eq!(plane.engine.arrive(), 0, "the daemon made a container for a sandbox that is removed");
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Gone);
}

#[tokio::test]
async fn a_worker_that_dies_is_followed_by_one_that_goes_on_with_its_container() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = making::take_next(&plane.ctx, plane.served(), "dies", true).await.unwrap().unwrap();
    // It has made the container, and dies before it could write so.
    let container = job.sandbox.container.clone().unwrap();
    let identity = plane.ctx.identity(&job.sandbox, &container);
    let places = plane.ctx.places(plane.served(), &job.sandbox, &container);
    let spec = sandbox_svc::domain::spec::ContainerSpec::of(
        &identity,
        &job.sandbox.shape,
        &container.image,
        &places,
        job.sandbox.created_at,
    );
    plane.engine.create_volume(&making::volume_spec(&plane.ctx, &job.sandbox)).await.unwrap();
    let made = plane.engine.create(&spec).await.unwrap();
    expire_lease(&plane, requested.id).await;

    let survivor = plane.replica().await;
    let taken =
        making::take_over(&survivor, requested.id, job.sandbox.epoch, "lives").await.unwrap().unwrap();
    // Only one takes over.
    assert!(making::take_over(&plane.ctx, requested.id, job.sandbox.epoch, "late").await.unwrap().is_none());
    making::make(&survivor, survivor.served().unwrap(), taken).await.unwrap();
    let running = plane.sandbox(requested.id).await;
    assert_eq!(
        (running.state, running.cause, running.container.unwrap().id),
        (State::Running, None, Some(made.0))
    );
    // The dead one comes back: its writes change nothing.
    making::make(&plane.ctx, plane.served(), job).await.unwrap();
    assert_eq!(plane.state(requested.id).await, State::Running);
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn another_container_with_the_sandboxs_name_is_neither_adopted_nor_removed() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    let job = making::take_next(&plane.ctx, plane.served(), "maker", true).await.unwrap().unwrap();
    let container = job.sandbox.container.clone().unwrap();
    let identity = plane.ctx.identity(&job.sandbox, &container);
    let places = plane.ctx.places(plane.served(), &job.sandbox, &container);
    let mut foreign = sandbox_svc::domain::spec::ContainerSpec::of(
        &identity,
        &job.sandbox.shape,
        &container.image,
        &places,
        job.sandbox.created_at,
    );
    foreign.labels.clear();
    let id = plane.engine.create(&foreign).await.unwrap();
    making::make(&plane.ctx, plane.served(), job).await.unwrap();
    assert_eq!(plane.sandbox(requested.id).await.cause, Some(Cause::EngineRefused));
    plane.clock.advance(Duration::from_secs(181));
    plane.remove_all().await;
    assert_eq!(plane.state(requested.id).await, State::Failed);
    assert!(matches!(plane.engine.observe(Handle::Id(&id)).await, sandbox_svc::engine::Observed::Present(_)));
}

#[tokio::test]
async fn a_wish_that_nobody_fulfils_in_time_fails() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    plane.clock.advance(Duration::from_secs(600));
    assert_eq!(deadlines::sweep(&plane.ctx).await.unwrap(), 1);
    plane.remove_all().await;
    let failed = plane.sandbox(requested.id).await;
    assert_eq!((failed.state, failed.cause), (State::Failed, Some(Cause::CreateTimeout)));
}

#[tokio::test]
async fn an_engine_that_does_not_answer_changes_nothing() {
    let plane = Plane::start().await;
    let requested = plane.create(plane.owner()).await;
    plane.engine.fault(Verb::Image, Fault::Stall);
    assert!(make_next(&plane.ctx, plane.served(), "maker").await.is_err());
    assert_eq!(plane.state(requested.id).await, State::Requested);
    assert!(plane.run_dirs().is_empty());
    plane.make_all().await;
    assert_eq!(plane.state(requested.id).await, State::Running);
}

/// The lease of a dead worker runs out.
async fn expire_lease(plane: &Plane, id: svc_core::id::SandboxId) {
    let mut db = plane.db.owner("sandbox").await;
    sqlx::query("UPDATE sandboxes SET lease_until = now() - interval '1 second' WHERE id = $1")
        .bind(id.0)
        .execute(&mut db)
        .await
        .unwrap();
}
