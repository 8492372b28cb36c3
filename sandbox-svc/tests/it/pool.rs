//! Tests the warm pool: requests of sessions are served before it is filled, and each of its sandboxes is
//! claimed at most once and replaced before it retires.

use std::time::Duration;

use sandbox_svc::testing::{
    HostLevel, PassLease, deadlines,
    domain::{
        host::Level,
        sandbox::{Cause, Sandbox, State},
    },
    engine::fake::{Fault, Verb},
    pool,
    store::sandboxes,
};

use crate::plane::{ENGINE, IMAGE, Plane};

async fn pass(plane: &Plane, lease: &mut PassLease, size: u16) {
    pool::pass(&plane.with_pool(size), &HostLevel::default(), lease).await.unwrap();
}

async fn filled(plane: &Plane, lease: &mut PassLease, size: u16) {
    pass(plane, lease, size).await;
    plane.make_all().await;
}

/// Lists the available sandboxes of the pool.
async fn waiting(plane: &Plane) -> Vec<Sandbox> {
    let mut db = plane.replica.deps.pool.acquire().await.unwrap();
    let rows = sandboxes::in_states(&mut db, ENGINE, &[State::Running]).await.unwrap();
    rows.into_iter().filter(|row| row.slot.is_some()).collect()
}

#[tokio::test]
async fn a_claim_takes_the_oldest_and_the_next_pass_fills_its_place() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    filled(&plane, &mut lease, 2).await;
    let oldest = waiting(&plane).await.into_iter().min_by_key(|row| (row.created_at, row.id)).unwrap();
    let creates = plane.engine.calls(Verb::Create);
    let owner = plane.owner();
    let claimed = plane.create(owner).await;
    assert_eq!((claimed.id, claimed.state, claimed.warm), (oldest.id, State::Running, true));
    assert_eq!((claimed.owner, claimed.slot), (Some(owner), None));
    assert_eq!(claimed.generation, oldest.generation + 1);
    assert_eq!(plane.engine.calls(Verb::Create), creates, "a claim creates no container");
    // The sandbox now belongs to the session, and its guest runs commands.
    assert_eq!(plane.create(owner).await.id, claimed.id);
    let record = super::execs::run(&plane, &claimed, "a", &["echo", "hi"]).await.unwrap();
    assert_eq!(record.outcome.unwrap().stdout, b"hi\n");
    filled(&plane, &mut lease, 2).await;
    assert_eq!(waiting(&plane).await.len(), 2);
}

#[tokio::test]
async fn concurrent_claims_share_no_sandbox_and_the_rest_queue() {
    let plane = Plane::start().await;
    filled(&plane, &mut plane.lease("pool"), 3).await;
    let owners: Vec<_> = (0..6).map(|_| plane.owner()).collect();
    let got = futures::future::join_all(owners.iter().map(|owner| plane.create(*owner))).await;
    let warm: std::collections::BTreeSet<_> = got.iter().filter(|s| s.warm).map(|s| s.id).collect();
    assert_eq!(warm.len(), 3);
    assert_eq!(got.iter().filter(|sandbox| sandbox.state == State::Requested).count(), 3);
}

#[tokio::test]
async fn concurrent_requests_of_a_session_claim_one_sandbox() {
    let plane = Plane::start().await;
    filled(&plane, &mut plane.lease("pool"), 3).await;
    let owner = plane.owner();
    let got = futures::future::join_all((0..8).map(|_| plane.create(owner))).await;
    assert!(got.iter().all(|sandbox| sandbox.id == got[0].id));
    assert_eq!(waiting(&plane).await.len(), 2);
}

#[tokio::test]
async fn a_session_with_a_workspace_claims_no_warm_sandbox() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    filled(&plane, &mut plane.lease("pool"), 1).await;
    let second = plane.create(owner).await;
    assert_eq!((second.warm, second.volume), (false, first.volume));
}

#[tokio::test]
async fn a_pool_that_shrinks_retires_its_sandboxes() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    filled(&plane, &mut lease, 2).await;
    pass(&plane, &mut lease, 0).await;
    assert!(waiting(&plane).await.is_empty());
    plane.remove_all().await;
    assert!(plane.engine.containers().is_empty());
}

#[tokio::test]
async fn a_new_image_replaces_the_pool_one_by_one_without_a_gap() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    filled(&plane, &mut lease, 1).await;
    plane.engine.add_image(IMAGE, "sha256:2");
    pass(&plane, &mut lease, 1).await;
    assert_eq!(waiting(&plane).await.len(), 1, "the old sandbox is available until the new one runs");
    plane.make_all().await;
    let now = waiting(&plane).await;
    assert_eq!(now.len(), 1);
    assert_eq!(now[0].container.as_ref().unwrap().image, "sha256:2");
    plane.remove_all().await;
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_sandbox_that_was_not_claimed_is_replaced_and_retired() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    filled(&plane, &mut lease, 1).await;
    let old = waiting(&plane).await.remove(0);
    plane.clock.advance(Duration::from_secs(3_600 - 30));
    filled(&plane, &mut lease, 1).await;
    let new = waiting(&plane).await.remove(0);
    assert_ne!(old.id, new.id);
    assert_eq!(plane.sandbox(old.id).await.cause, Some(Cause::Retired));
    // A sandbox without a replacement expires at its deadline.
    plane.clock.advance(Duration::from_secs(3_600));
    assert_eq!(deadlines::sweep(&plane.replica.deps).await.unwrap(), 1);
    assert_eq!(plane.sandbox(new.id).await.cause, Some(Cause::Retired));
}

#[tokio::test]
async fn a_pool_that_keeps_failing_pauses() {
    let plane = Plane::start().await;
    let mut lease = plane.lease("pool");
    for _ in 0..5 {
        plane.engine.fault(Verb::Create, Fault::Fail(400));
        filled(&plane, &mut lease, 1).await;
        plane.remove_all().await;
    }
    assert_eq!(plane.engine.calls(Verb::Create), 3, "three failures within the window pause the pool");
}

#[tokio::test]
async fn a_host_short_of_resources_fills_no_pool() {
    let plane = Plane::start().await;
    let (mut lease, host) = (plane.lease("pool"), HostLevel::default());
    host.set(Level::Warning);
    pool::pass(&plane.with_pool(2), &host, &mut lease).await.unwrap();
    plane.make_all().await;
    assert!(waiting(&plane).await.is_empty());
    host.set(Level::Fine);
    pool::pass(&plane.with_pool(2), &host, &mut lease).await.unwrap();
    plane.make_all().await;
    assert_eq!(waiting(&plane).await.len(), 2);
}
