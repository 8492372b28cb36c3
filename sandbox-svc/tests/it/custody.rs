//! Tests an erasure in sandbox-svc: writes are refused, containers and volumes are removed, and an engine
//! that does not answer is never counted as empty.

use std::time::Duration;

use purge_svc::testing::{
    contract::{self, Owner as Contracted},
    domain::custodian::Custodian as Name,
};
use sandbox_svc::testing::{
    Custodian, Deps, EngineSlot,
    domain::{
        exec::{Call, ExecState, Key, Write},
        residue::{ResourceKind, RetryReason},
        sandbox::{Cause, Owner, Sandbox, State},
        spec::VolumeSpec,
    },
    engine::{
        ContainerEngine,
        fake::{Fault, Verb},
    },
};
use steward_proto::custody::v1::custodian_service_server::CustodianServiceServer;
use svc_core::{
    custody::{
        Step, StepKind,
        custodian::{Custodian as _, Done, Erased, Outcome, answer, subjects},
        server::CustodianHandler,
    },
    data::idempotency::Once,
    error::ServiceError,
    id::{PurgeId, SessionId},
    subject::Subject,
    wire::{client::Peer, principal::Principal},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    execs::run,
    plane::{Plane, peer},
    provision::keyed,
};

/// One purge of one subject.
#[derive(Clone, Copy)]
struct Purge {
    id: PurgeId,
    subject: Subject,
}

impl Purge {
    fn of_session(owner: Owner) -> Self {
        let subject = Subject::Session { account: owner.account, session: owner.session };
        Self { id: PurgeId::new(), subject }
    }

    fn of_account(owner: Owner) -> Self {
        Self { id: PurgeId::new(), subject: Subject::Account { account: owner.account } }
    }

    fn step(&self, kind: StepKind) -> Step {
        Step { purge_id: self.id, epoch: 1, subject: self.subject, kind }
    }
}

fn custodian(plane: &Plane) -> Custodian {
    Custodian::new(plane.replica.deps.clone())
}

async fn freeze_and_list(custodian: &Custodian, purge: &Purge) {
    assert!(custodian.freeze(purge.step(StepKind::Freeze)).await.unwrap().known);
    custodian.inventory(purge.step(StepKind::Inventory)).await.unwrap();
}

async fn write(plane: &Plane, sandbox: &Sandbox, key: &str, content: &str) -> ExecState {
    let write = Write { path: "secret.txt".into(), content: content.as_bytes().to_vec().into(), mode: 0o644 };
    let key = Key::from(key.to_owned());
    let account = sandbox.owner.unwrap().account;
    plane.replica.execs.call(account, sandbox.id, key, Call::Write(write)).await.unwrap().state
}

fn residue(counts: &[(String, i64)]) -> Vec<&(String, i64)> {
    counts.iter().filter(|(_, count)| *count > 0).collect()
}

/// Requests a session's sandbox with an idempotency key, and creates it.
async fn running_keyed(plane: &Plane, owner: Owner) -> Sandbox {
    let once = keyed("CreateSandbox", "seed");
    plane.replica.sandboxes.create(owner.account, owner.session, &once).await.unwrap();
    plane.running(owner).await
}

async fn rows_of(plane: &Plane, owner: Owner) -> i64 {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM sandboxes WHERE session_id = $1)
              + (SELECT count(*) FROM volumes WHERE session_id = $1)
              + (SELECT count(*) FROM execs WHERE session_id = $1)
              + (SELECT count(*) FROM idempotency_keys WHERE session_id = $1)",
    )
    .bind(owner.session.0)
    .fetch_one(&mut plane.db.owner("sandbox").await)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_erasure_removes_all_of_its_session_and_nothing_else() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    let sandbox = running_keyed(&plane, owner).await;
    let kept = plane.running(plane.owner()).await;
    write(&plane, &sandbox, "a", "secret").await;
    run(&plane, &sandbox, "b", &["echo", "secret"]).await.unwrap();

    let purge = Purge::of_session(owner);
    assert!(custodian.freeze(purge.step(StepKind::Freeze)).await.unwrap().known);
    // A running sandbox stays until the erasure cannot be undone.
    assert_eq!(plane.state(sandbox.id).await, State::Running);
    let listed = custodian.inventory(purge.step(StepKind::Inventory)).await.unwrap();
    let kinds: Vec<_> = listed.iter().map(|object| object.kind.as_str()).collect();
    assert_eq!(kinds, ResourceKind::ALL.map(ResourceKind::name));

    let erased = custodian.erase(purge.step(StepKind::Erase)).await.unwrap();
    assert!(erased.done, "{erased:?}");
    assert_eq!(erased.deleted.iter().map(|(_, count)| count).sum::<i64>(), 5, "{erased:?}");
    assert_eq!(
        erased.objects.iter().map(|(object, _)| object).collect::<Vec<_>>(),
        listed.iter().collect::<Vec<_>>()
    );
    assert_eq!(
        custodian.erase(purge.step(StepKind::Erase)).await.unwrap(),
        erased,
        "a repeated step has the same answer"
    );
    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert!(residue(&verified.residue).is_empty(), "{verified:?}");
    custodian.commit(purge.step(StepKind::Commit)).await.unwrap();

    assert_eq!(rows_of(&plane, owner).await, 0);
    assert_eq!((plane.engine.containers().len(), plane.run_dirs().len()), (1, 1));
    assert_eq!(plane.engine.list_volumes("test").await.unwrap().len(), 1);
    assert_eq!(plane.state(kept.id).await, State::Running);
    for (act, times) in [("sandbox.deleted", 1), ("workspace.removed", 1), ("session.erased", 1)] {
        assert_eq!(plane.audited(act).await, times, "{act}");
    }
    let late =
        plane.replica.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.unwrap_err();
    assert_eq!(late.reason(), "NOT_FOUND");
    for invariant in custodian.check_invariants().await.unwrap() {
        assert!(invariant.offenders.is_empty(), "{invariant:?}");
    }
}

#[tokio::test]
async fn a_silent_engine_never_counts_as_an_empty_one() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    plane.running(owner).await;
    let purge = Purge::of_session(owner);
    freeze_and_list(&custodian, &purge).await;

    plane.engine.fault(Verb::Remove, Fault::Stall);
    let erased = custodian.erase(purge.step(StepKind::Erase)).await.unwrap();
    let unknown = |erased: &Erased| {
        !erased.done
            && erased
                .objects
                .iter()
                .all(|(_, outcome)| *outcome == Outcome::Transient(RetryReason::EngineUnavailable.code()))
    };
    assert!(unknown(&erased), "{erased:?}");
    assert!(rows_of(&plane, owner).await > 0, "an unconfirmed removal must keep its row");

    plane.engine.fault(Verb::RemoveVolume, Fault::Fail(500));
    let erased = custodian.erase(purge.step(StepKind::Erase)).await.unwrap();
    assert!(!erased.done && rows_of(&plane, owner).await > 0, "{erased:?}");
    plane.engine.fault(Verb::Info, Fault::Stall);
    let erased = custodian.erase(purge.step(StepKind::Erase)).await.unwrap();
    assert!(unknown(&erased), "{erased:?}");
    assert!(custodian.erase(purge.step(StepKind::Erase)).await.unwrap().done);

    for verb in [Verb::Info, Verb::List, Verb::ListVolumes] {
        plane.engine.fault(verb, Fault::Stall);
        let unknown = custodian.verify(purge.step(StepKind::Verify)).await.unwrap_err();
        assert_eq!(unknown.reason(), "ENGINE_UNAVAILABLE", "{verb:?}");
    }
    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert!(residue(&verified.residue).is_empty(), "{verified:?}");
}

#[tokio::test]
async fn an_unfinished_sandbox_without_resources_is_not_done() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    plane.create(owner).await;
    let purge = Purge::of_session(owner);
    assert!(custodian.freeze(purge.step(StepKind::Freeze)).await.unwrap().known);
    sqlx::query("UPDATE volumes SET state = 'gone', ended_at = now()")
        .execute(&mut plane.db.owner("sandbox").await)
        .await
        .unwrap();
    assert!(custodian.inventory(purge.step(StepKind::Inventory)).await.unwrap().is_empty());
    let unserved = Deps { engine: EngineSlot::default(), ..plane.replica.deps.clone() };
    let erased = Custodian::new(unserved).erase(purge.step(StepKind::Erase)).await.unwrap();
    assert!(!erased.done, "{erased:?}");
    assert!(custodian.erase(purge.step(StepKind::Erase)).await.unwrap().done);
    assert_eq!(rows_of(&plane, owner).await, 0);
}

#[tokio::test]
async fn a_volume_that_returns_is_found_and_removed() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    let sandbox = plane.running(owner).await;
    let volume = VolumeSpec::of("test", &sandbox);
    let purge = Purge::of_session(owner);
    freeze_and_list(&custodian, &purge).await;
    assert!(custodian.erase(purge.step(StepKind::Erase)).await.unwrap().done);
    plane.engine.create_volume(&volume).await.unwrap();

    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert_eq!(residue(&verified.residue), [&("docker.volume".to_owned(), 1)]);
    let early = custodian.commit(purge.step(StepKind::Commit)).await.unwrap_err();
    assert_eq!(early.reason(), "ERASURE_NOT_VERIFIED");
    let erased = custodian.erase(purge.step(StepKind::Erase)).await.unwrap();
    assert!(
        erased
            .objects
            .iter()
            .any(|(object, outcome)| object.id == volume.name && *outcome == Outcome::Deleted)
    );
    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert!(residue(&verified.residue).is_empty(), "{verified:?}");
}

#[tokio::test]
async fn a_running_call_leaves_no_rows() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    let sandbox = plane.running(owner).await;
    let running = async || {
        let mut db = plane.db.owner("sandbox").await;
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM execs WHERE state = 'running'")
            .fetch_one(&mut db)
            .await
            .unwrap()
            == 1
    };
    let purge = Purge::of_session(owner);
    let erase = async {
        while !running().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        freeze_and_list(&custodian, &purge).await;
        assert!(custodian.erase(purge.step(StepKind::Erase)).await.unwrap().done);
    };
    let argv = ["sh", "-c", "sleep 15"];
    let (called, ()) = tokio::join!(run(&plane, &sandbox, "slow", &argv), erase);
    assert!(called.is_err(), "an erased call must have no outcome: {called:?}");
    assert_eq!(rows_of(&plane, owner).await, 0);
    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert!(residue(&verified.residue).is_empty(), "{verified:?}");
}

#[tokio::test]
async fn a_freeze_gives_up_a_pending_sandbox() {
    let plane = Plane::start().await;
    let (custodian, owner) = (custodian(&plane), plane.owner());
    let queued = plane.create(owner).await;
    let purge = Purge::of_session(owner);
    freeze_and_list(&custodian, &purge).await;
    let given_up = plane.sandbox(queued.id).await;
    assert_eq!((given_up.state, given_up.cause), (State::Deleting, Some(Cause::Erased)));
    let refused =
        plane.replica.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.unwrap_err();
    assert_eq!(refused.reason(), "SUBJECT_FROZEN");
    answer(custodian.pool(), purge.step(StepKind::Thaw), Done {}).await.unwrap();
    // The session's workspace can be mounted again once the removal is done.
    plane.remove_all().await;
    assert_ne!(plane.running(owner).await.id, queued.id);
}

#[tokio::test]
async fn the_erasure_of_an_account_covers_all_its_sessions() {
    let plane = Plane::start().await;
    let (custodian, first) = (custodian(&plane), plane.owner());
    let second = Owner { session: plane.owner().session, ..first };
    plane.running(first).await;
    let deleted = plane.running(second).await;
    plane.delete(&deleted).await;
    let bystander = plane.running(plane.owner()).await;
    let purge = Purge::of_account(first);
    freeze_and_list(&custodian, &purge).await;
    assert!(custodian.erase(purge.step(StepKind::Erase)).await.unwrap().done);
    let verified = custodian.verify(purge.step(StepKind::Verify)).await.unwrap();
    assert!(residue(&verified.residue).is_empty(), "{verified:?}");
    custodian.commit(purge.step(StepKind::Commit)).await.unwrap();
    assert_eq!(rows_of(&plane, first).await + rows_of(&plane, second).await, 0);
    assert_eq!(plane.engine.containers().len(), 1);
    assert_eq!(plane.state(bystander.id).await, State::Running);
    let listed = subjects(custodian.pool(), 100, None).await.unwrap().items;
    assert!(!listed.contains(&purge.subject) && !listed.is_empty());
}

/// The custodian of a plane behind a gRPC server, called as purge-svc calls it.
struct Served<'a> {
    plane: &'a Plane,
    peer: Peer,
}

impl Contracted for Served<'_> {
    fn custodian(&self) -> Name {
        Name::Sandbox
    }

    fn peer(&self) -> Peer {
        self.peer.clone()
    }

    async fn seed(&self, subject: Subject) {
        let sandbox = running_keyed(self.plane, owner(subject)).await;
        write(self.plane, &sandbox, "seed", "secret").await;
    }

    async fn write(&self, subject: Subject) -> bool {
        let owner = owner(subject);
        self.plane.replica.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.is_ok()
    }
}

fn owner(subject: Subject) -> Owner {
    match subject {
        Subject::Session { account, session } => Owner { account, session },
        Subject::Account { account } => Owner { account, session: SessionId::new() },
    }
}

#[tokio::test]
async fn the_custodian_passes_the_common_contract() {
    let plane = Plane::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = peer("sandbox-svc", listener.local_addr().unwrap());
    // The real server authenticates its callers; this one treats every caller as purge-svc.
    let from_purge = |mut request: tonic::Request<()>| {
        request.extensions_mut().insert(Principal::service("purge-svc", None));
        Ok(request)
    };
    let handler = CustodianHandler::new("sandbox-svc", custodian(&plane));
    let served = tonic::transport::Server::builder()
        .add_service(CustodianServiceServer::with_interceptor(handler, from_purge))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let mut server = JoinSet::new();
    server.spawn(served);
    contract::run(&Served { plane: &plane, peer }).await;
}
