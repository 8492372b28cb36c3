//! Requests of sessions for a sandbox.

use std::time::Duration;

use sandbox_svc::testing::{
    Error,
    domain::sandbox::{Owner, State},
};
use svc_core::id::AccountId;

use crate::plane::Plane;

#[tokio::test]
async fn a_request_is_accepted_with_a_position_in_the_queue() {
    let plane = Plane::start().await;
    for position in 0..3 {
        let owner = plane.owner();
        let view = plane.replica.sandboxes.create(owner.account, owner.session).await.unwrap();
        assert_eq!((view.sandbox.state, view.position), (State::Requested, position));
    }
    assert_eq!(plane.engine.containers().len(), 0);
}

#[tokio::test]
async fn a_repeated_request_returns_the_same_sandbox() {
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
async fn concurrent_requests_of_a_session_get_one_sandbox() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let asked = futures::future::join_all((0..16).map(|_| plane.create(owner))).await;
    assert!(asked.iter().all(|sandbox| sandbox.id == asked[0].id));
    plane.make_all().await;
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn concurrent_requests_without_a_workspace_get_one_sandbox() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    plane.remove_workspaces(&mut plane.lease("volumes")).await;
    // The session is known and its workspace is removed. Open four connections, so that requests run
    // concurrently.
    drop(futures::future::join_all((0..4).map(|_| plane.replica.deps.pool.acquire())).await);
    let asked = futures::future::join_all((0..16).map(|_| plane.create(owner))).await;
    assert!(asked.iter().all(|sandbox| sandbox.id == asked[0].id));
    assert_ne!(asked[0].volume, first.volume);
}

#[tokio::test]
async fn the_sandbox_of_another_account_does_not_exist() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let sandbox = plane.running(owner).await;
    let other = AccountId::new();
    let found = plane.replica.sandboxes.find(other, sandbox.id).await;
    assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
    let deleted = plane.replica.sandboxes.delete(other, sandbox.id, "other").await;
    assert!(matches!(deleted, Err(Error::NotFound)), "{deleted:?}");
    let taken = plane.replica.sandboxes.create(other, owner.session).await;
    assert!(matches!(taken, Err(Error::SessionNotFound)), "{taken:?}");
    let listed = plane.replica.sandboxes.list(other, None, 10, "").await.unwrap();
    assert!(listed.items.is_empty());
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn a_listing_has_pages_newest_first_and_filters_by_session() {
    let plane = Plane::start().await;
    let account = AccountId::new();
    let mut created = Vec::new();
    for _ in 0..3 {
        created.push(plane.create(Owner { account, ..plane.owner() }).await);
    }
    let first = plane.replica.sandboxes.list(account, None, 2, "").await.unwrap();
    let second = plane.replica.sandboxes.list(account, None, 2, &first.next_page_token).await.unwrap();
    let ids: Vec<_> = first.items.iter().chain(&second.items).map(|sandbox| sandbox.id).collect();
    let expected: Vec<_> = created.iter().rev().map(|sandbox| sandbox.id).collect();
    assert_eq!((ids, second.next_page_token.as_str()), (expected, ""));
    let session = created[1].owner.unwrap().session;
    let one = plane.replica.sandboxes.list(account, Some(session), 10, "").await.unwrap();
    assert_eq!(one.items.iter().map(|sandbox| sandbox.id).collect::<Vec<_>>(), [created[1].id]);
}

#[tokio::test]
async fn waiting_for_a_sandbox_ends_when_it_runs() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let requested = plane.create(owner).await;
    let wait = plane.replica.sandboxes.get(owner.account, requested.id, std::time::Duration::from_secs(20));
    let (view, ()) = tokio::join!(wait, plane.make_all());
    assert_eq!(view.unwrap().sandbox.state, State::Running);
}

#[tokio::test]
async fn a_new_sandbox_waits_for_the_workspace_of_the_last_one() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let first = plane.running(owner).await;
    plane.delete(&first).await;
    let second = plane.create(owner).await;
    assert_eq!((second.volume, second.state), (first.volume, State::Requested));
    assert_ne!(second.id, first.id);
    // Its volume is still mounted, so its container must not be created yet.
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Requested);
    plane.remove_all().await;
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Running);
    assert_eq!(plane.engine.containers().len(), 1);
}
