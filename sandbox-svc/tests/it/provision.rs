//! Tests requests for a session's sandbox: queued, repeated, concurrent, and by another account.

use std::time::Duration;

use sandbox_svc::testing::{
    Deps, Error, Sandboxes,
    domain::sandbox::{Filter, Owner, State},
};
use svc_core::{
    data::{
        idempotency::{Once, RequestHash},
        pg::{PgConfig, Pool},
    },
    id::AccountId,
};

use crate::plane::Plane;

#[tokio::test]
async fn a_request_is_accepted_with_a_position_in_the_queue() {
    let plane = Plane::start().await;
    for position in 0..3 {
        let owner = plane.owner();
        let view =
            plane.replica.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.unwrap();
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
    // The session is known and its workspace is removed. Opens four connections, so that the requests run
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
    let found = plane.replica.deps.find(other, sandbox.id).await;
    assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
    let deleted = plane.replica.sandboxes.delete(other, sandbox.id, "other", &Once::unkeyed()).await;
    assert!(matches!(deleted, Err(Error::NotFound)), "{deleted:?}");
    let taken = plane.replica.sandboxes.create(other, owner.session, &Once::unkeyed()).await;
    assert!(matches!(taken, Err(Error::SessionNotFound)), "{taken:?}");
    let listed = plane.replica.sandboxes.list(other, Filter::default(), 10, "").await.unwrap();
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
    let first = plane.replica.sandboxes.list(account, Filter::default(), 2, "").await.unwrap();
    let second =
        plane.replica.sandboxes.list(account, Filter::default(), 2, &first.next_page_token).await.unwrap();
    let ids: Vec<_> = first.items.iter().chain(&second.items).map(|sandbox| sandbox.id).collect();
    let expected: Vec<_> = created.iter().rev().map(|sandbox| sandbox.id).collect();
    assert_eq!((ids, second.next_page_token.as_str()), (expected, ""));
    let session = created[1].owner.unwrap().session;
    let filter = Filter { session: Some(session), ..Filter::default() };
    let one = plane.replica.sandboxes.list(account, filter, 10, "").await.unwrap();
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
    // The volume is still mounted, so the container must not be created yet.
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Requested);
    plane.remove_all().await;
    plane.make_all().await;
    assert_eq!(plane.state(second.id).await, State::Running);
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_listing_filters_by_state() {
    let plane = Plane::start().await;
    let account = AccountId::new();
    let deleted = plane.running(Owner { account, ..plane.owner() }).await;
    let queued = plane.create(Owner { account, ..plane.owner() }).await;
    plane.delete(&deleted).await;
    for (state, expected) in [
        (Some(State::Deleting), vec![deleted.id]),
        (Some(State::Requested), vec![queued.id]),
        (Some(State::Running), vec![]),
        (None, vec![queued.id, deleted.id]),
    ] {
        let filter = Filter { state, ..Filter::default() };
        let listed = plane.replica.sandboxes.list(account, filter, 10, "").await.unwrap();
        let ids: Vec<_> = listed.items.iter().map(|sandbox| sandbox.id).collect();
        assert_eq!(ids, expected, "{state:?}");
    }
}

/// Identifies a request of `method` with the idempotency key `k`; a request with another `message` is a
/// different one.
pub(crate) fn keyed(method: &'static str, message: &str) -> Once {
    Once::new(method, "k".parse().unwrap(), RequestHash::of(&message.to_owned()))
}

#[tokio::test]
async fn a_repeated_create_returns_the_sandbox_of_the_first() {
    let plane = Plane::start().await;
    let (owner, sandboxes) = (plane.owner(), &plane.replica.sandboxes);
    let once = keyed("CreateSandbox", "first");
    let first = sandboxes.create(owner.account, owner.session, &once).await.unwrap().sandbox;
    plane.delete(&first).await;
    plane.remove_all().await;
    let repeated = sandboxes.create(owner.account, owner.session, &once).await.unwrap().sandbox;
    assert_eq!((repeated.id, repeated.state), (first.id, State::Gone));
    let other = Owner { account: owner.account, ..plane.owner() };
    let reused = sandboxes.create(other.account, other.session, &keyed("CreateSandbox", "second")).await;
    assert!(matches!(reused, Err(Error::Idempotency(_))), "{reused:?}");
    // Without a key the session gets a new sandbox.
    assert_ne!(plane.create(owner).await.id, first.id);
}

#[tokio::test]
async fn concurrent_creates_with_one_key_make_one_sandbox() {
    let plane = Plane::start().await;
    let (owner, once) = (plane.owner(), keyed("CreateSandbox", "first"));
    let sandboxes = &plane.replica.sandboxes;
    let creates = (0..8).map(|_| sandboxes.create(owner.account, owner.session, &once));
    let created = futures::future::join_all(creates).await;
    let ids: std::collections::BTreeSet<_> =
        created.iter().filter_map(|view| Some(view.as_ref().ok()?.sandbox.id)).collect();
    assert_eq!(ids.len(), 1);
    let refused = |error: &Error| matches!(error, Error::Idempotency(_));
    assert!(created.iter().filter_map(|view| view.as_ref().err()).all(refused), "{created:?}");
}

#[tokio::test]
async fn a_repeated_delete_returns_the_same_sandbox() {
    let plane = Plane::start().await;
    let (owner, sandboxes) = (plane.owner(), &plane.replica.sandboxes);
    let (first, second) = (plane.create(owner).await, plane.create(plane.owner()).await);
    let once = keyed("DeleteSandbox", "first");
    for _ in 0..2 {
        let deleted = sandboxes.delete(owner.account, first.id, "test", &once).await.unwrap();
        assert_eq!((deleted.id, deleted.state), (first.id, State::Deleting));
    }
    // A repetition needs only one connection to Postgres, and leaves no lock on the key.
    let one = PgConfig { max_connections: 1, ..plane.db.config("sandbox") };
    let alone = Sandboxes { deps: Deps { pool: Pool::lazy(&one).unwrap(), ..plane.replica.deps.clone() } };
    for _ in 0..2 {
        assert_eq!(alone.delete(owner.account, first.id, "test", &once).await.unwrap().id, first.id);
    }
    assert_eq!(plane.audited("sandbox.deleted").await, 1);
    assert_eq!(plane.state(second.id).await, State::Requested);
    let third = plane.create(Owner { account: owner.account, ..plane.owner() }).await;
    let reused = sandboxes.delete(owner.account, third.id, "test", &keyed("DeleteSandbox", "third")).await;
    assert!(matches!(reused, Err(Error::Idempotency(_))), "{reused:?}");
}
