//! What a session gets when it asks for a sandbox.

use std::time::Duration;

use sandbox_svc::{
    Error,
    app::{lifecycle, provision},
    domain::sandbox::{Owner, State},
    worker::volumes,
};
use svc_core::id::AccountId;

use crate::plane::Plane;

#[tokio::test]
async fn a_wish_is_accepted_at_once_with_a_place_in_the_queue() {
    let plane = Plane::start().await;
    for position in 0..3 {
        let owner = plane.owner();
        let view = provision::create(&plane.ctx, owner.account, owner.session).await.unwrap();
        assert_eq!((view.sandbox.state, view.position), (State::Requested, position));
    }
    assert_eq!(plane.engine.containers().len(), 0);
}

#[tokio::test]
async fn a_session_that_asks_again_gets_the_sandbox_it_has() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let requested = plane.create(owner).await;
    assert_eq!(plane.create(owner).await.id, requested.id);
    plane.make_all().await;
    let running = plane.create(owner).await;
    assert_eq!((running.id, running.state), (requested.id, State::Running));
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_session_that_asks_many_times_at_once_gets_one_sandbox() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let asked = futures::future::join_all((0..16).map(|_| plane.create(owner))).await;
    assert!(asked.iter().all(|sandbox| sandbox.id == asked[0].id));
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_session_that_comes_back_many_times_at_once_gets_one_sandbox() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    volumes::pass(&plane.ctx, &mut plane.kept("volumes")).await.unwrap();
    // It is known here, and has no workspace any more; and there is a connection for each of four at once.
    drop(futures::future::join_all((0..4).map(|_| plane.ctx.pool.acquire())).await);
    let asked = futures::future::join_all((0..16).map(|_| plane.create(owner))).await;
    assert!(asked.iter().all(|sandbox| sandbox.id == asked[0].id));
    assert_ne!(asked[0].volume, first.volume);
}

#[tokio::test]
async fn what_belongs_to_another_tenant_does_not_exist() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let sandbox = plane.running(owner).await;
    let stranger = AccountId::new();
    let found = lifecycle::find(&plane.ctx, stranger, sandbox.id).await;
    assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
    let deleted = lifecycle::delete(&plane.ctx, stranger, sandbox.id, "stranger").await;
    assert!(matches!(deleted, Err(Error::NotFound)), "{deleted:?}");
    let taken = provision::create(&plane.ctx, stranger, owner.session).await;
    assert!(matches!(taken, Err(Error::SessionNotFound)), "{taken:?}");
    let listed = lifecycle::list(&plane.ctx, stranger, None, 10, "").await.unwrap();
    assert!(listed.items.is_empty());
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn a_listing_has_pages_newest_first_and_can_be_of_one_session() {
    let plane = Plane::start().await;
    let account = AccountId::new();
    let mut created = Vec::new();
    for _ in 0..3 {
        created.push(plane.create(Owner { account, ..plane.owner() }).await);
    }
    let first = lifecycle::list(&plane.ctx, account, None, 2, "").await.unwrap();
    let second = lifecycle::list(&plane.ctx, account, None, 2, &first.next_page_token).await.unwrap();
    let ids: Vec<_> = first.items.iter().chain(&second.items).map(|sandbox| sandbox.id).collect();
    let expected: Vec<_> = created.iter().rev().map(|sandbox| sandbox.id).collect();
    assert_eq!((ids, second.next_page_token.as_str()), (expected, ""));
    let session = created[1].owner.unwrap().session;
    let one = lifecycle::list(&plane.ctx, account, Some(session), 10, "").await.unwrap();
    assert_eq!(one.items.iter().map(|sandbox| sandbox.id).collect::<Vec<_>>(), [created[1].id]);
}

#[tokio::test]
async fn waiting_for_a_sandbox_ends_when_it_runs() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let requested = plane.create(owner).await;
    let wait = lifecycle::get(&plane.ctx, owner.account, requested.id, std::time::Duration::from_secs(20));
    let (view, ()) = tokio::join!(wait, plane.make_all());
    assert_eq!(view.unwrap().sandbox.state, State::Running);
}

#[tokio::test]
async fn a_new_sandbox_gets_the_workspace_of_the_last_and_waits_until_that_is_gone() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    let second = plane.create(owner).await;
    assert_eq!((second.volume, second.state), (first.volume, State::Requested));
    assert_ne!(second.id, first.id);
    // Its volume is still mounted: it must not be made yet.
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Requested);
    plane.remove_all().await;
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Running);
    assert_eq!(plane.engine.containers().len(), 1);
}
