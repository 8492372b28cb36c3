//! The warm pool: filled behind users, claimed by one at a time, replaced before it is missed.

use std::time::Duration;

use sandbox_svc::{
    domain::{
        host::Level,
        sandbox::{Cause, Sandbox, State},
    },
    engine::fake::{Fault, Verb},
    store::sandboxes,
    worker::{Kept, deadlines, host::HostLevel, pool},
};

use crate::plane::{ENGINE, IMAGE, Plane};

async fn pass(plane: &Plane, kept: &mut Kept, size: u16) {
    pool::pass(&plane.ctx, &plane.pool_config(size), &HostLevel::default(), kept).await.unwrap();
}

async fn filled(plane: &Plane, kept: &mut Kept, size: u16) {
    pass(plane, kept, size).await;
    plane.make_all().await;
}

/// Sandboxes that wait in the pool.
async fn waiting(plane: &Plane) -> Vec<Sandbox> {
    let mut db = plane.ctx.pool.acquire().await.unwrap();
    let rows = sandboxes::in_states(&mut db, ENGINE, &[State::Running]).await.unwrap();
    rows.into_iter().filter(|row| row.slot.is_some()).collect()
}

#[tokio::test]
async fn a_claim_takes_the_oldest_and_the_next_pass_fills_its_place() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    filled(&plane, &mut kept, 2).await;
    let oldest = waiting(&plane).await.into_iter().min_by_key(|row| (row.created_at, row.id)).unwrap();
    let creates = plane.engine.calls(Verb::Create);
    let owner = plane.owner();
    let claimed = plane.create(owner).await;
    assert_eq!((claimed.id, claimed.state, claimed.warm), (oldest.id, State::Running, true));
    assert_eq!((claimed.owner, claimed.slot), (Some(owner), None));
    assert_eq!(claimed.generation, oldest.generation + 1);
    assert_eq!(plane.engine.calls(Verb::Create), creates, "a claim makes nothing");
    // It is the session's now, and works.
    assert_eq!(plane.create(owner).await.id, claimed.id);
    let record = super::execs::run(&plane, &claimed, "a", &["echo", "hi"]).await.unwrap();
    assert_eq!(record.outcome.unwrap().stdout, b"hi\n");
    filled(&plane, &mut kept, 2).await;
    assert_eq!(waiting(&plane).await.len(), 2);
}

#[tokio::test]
async fn claims_at_once_never_share_a_sandbox_and_the_rest_queue() {
    let plane = Plane::start().await;
    filled(&plane, &mut plane.kept("pool"), 3).await;
    let owners: Vec<_> = (0..6).map(|_| plane.owner()).collect();
    let got = futures::future::join_all(owners.iter().map(|owner| plane.create(*owner))).await;
    let warm: std::collections::BTreeSet<_> = got.iter().filter(|s| s.warm).map(|s| s.id).collect();
    assert_eq!(warm.len(), 3);
    assert_eq!(got.iter().filter(|sandbox| sandbox.state == State::Requested).count(), 3);
}

#[tokio::test]
async fn a_session_that_asks_many_times_at_once_claims_one() {
    let plane = Plane::start().await;
    filled(&plane, &mut plane.kept("pool"), 3).await;
    let owner = plane.owner();
    let got = futures::future::join_all((0..8).map(|_| plane.create(owner))).await;
    assert!(got.iter().all(|sandbox| sandbox.id == got[0].id));
    assert_eq!(waiting(&plane).await.len(), 2);
}

#[tokio::test]
async fn a_session_with_a_workspace_gets_no_warm_one() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    filled(&plane, &mut plane.kept("pool"), 1).await;
    let second = plane.create(owner).await;
    assert_eq!((second.warm, second.volume), (false, first.volume));
}

#[tokio::test]
async fn a_pool_that_shrinks_or_is_switched_off_lets_its_sandboxes_go() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    filled(&plane, &mut kept, 2).await;
    pass(&plane, &mut kept, 0).await;
    assert!(waiting(&plane).await.is_empty());
    plane.remove_all().await;
    assert!(plane.engine.containers().is_empty());
}

#[tokio::test]
async fn a_new_image_replaces_the_pool_one_by_one_without_a_gap() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    filled(&plane, &mut kept, 1).await;
    plane.engine.add_image(IMAGE, "sha256:2");
    pass(&plane, &mut kept, 1).await;
    assert_eq!(waiting(&plane).await.len(), 1, "the old one serves until the new one runs");
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
    let mut kept = plane.kept("pool");
    filled(&plane, &mut kept, 1).await;
    let old = waiting(&plane).await.remove(0);
    plane.clock.advance(Duration::from_secs(3_600 - 30));
    filled(&plane, &mut kept, 1).await;
    let new = waiting(&plane).await.remove(0);
    assert_ne!(old.id, new.id);
    assert_eq!(plane.sandbox(old.id).await.cause, Some(Cause::Retired));
    // One whose replacement never came goes by its deadline.
    plane.clock.advance(Duration::from_secs(3_600));
    assert_eq!(deadlines::sweep(&plane.ctx).await.unwrap(), 1);
    assert_eq!(plane.sandbox(new.id).await.cause, Some(Cause::Retired));
}

#[tokio::test]
async fn a_pool_that_cannot_be_filled_is_left_alone_for_a_while() {
    let plane = Plane::start().await;
    let mut kept = plane.kept("pool");
    for _ in 0..5 {
        plane.engine.fault(Verb::Create, Fault::Fail(400));
        filled(&plane, &mut kept, 1).await;
        plane.remove_all().await;
    }
    assert_eq!(plane.engine.calls(Verb::Create), 3, "it is tried three times, then left alone");
}

#[tokio::test]
async fn a_host_that_is_short_of_something_fills_no_pool() {
    let plane = Plane::start().await;
    let (mut kept, host) = (plane.kept("pool"), HostLevel::default());
    host.set(Level::Warning);
    pool::pass(&plane.ctx, &plane.pool_config(2), &host, &mut kept).await.unwrap();
    plane.make_all().await;
    assert!(waiting(&plane).await.is_empty());
    host.set(Level::Fine);
    pool::pass(&plane.ctx, &plane.pool_config(2), &host, &mut kept).await.unwrap();
    plane.make_all().await;
    assert_eq!(waiting(&plane).await.len(), 2);
}
