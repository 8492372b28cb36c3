//! Tests the removal of sandboxes: no row says `gone` while its container exists or can still start.

use std::{fs, time::Duration};

use sandbox_svc::testing::{
    deadlines,
    domain::sandbox::{Cause, Sandbox, State},
    engine::fake::{Fault, Verb},
    store,
};
use svc_core::{data::pg::Tx, id::SandboxId};

use crate::plane::Plane;

#[tokio::test]
async fn a_deleted_sandbox_is_gone_once_its_container_is_absent() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let deleting = plane.delete(&sandbox).await;
    assert_eq!((deleting.state, deleting.cause), (State::Deleting, Some(Cause::Deleted)));
    assert_eq!(plane.engine.containers().len(), 1);
    plane.remove_all().await;
    let gone = plane.sandbox(sandbox.id).await;
    assert_eq!((gone.state, gone.ended_at.is_some()), (State::Gone, true));
    assert!(plane.engine.containers().is_empty() && plane.run_dirs().is_empty());
    // A repeated request returns the same state, and the audit log has the act once.
    assert_eq!(plane.delete(&gone).await.state, State::Gone);
    assert_eq!(plane.audited("sandbox.deleted").await, 1);
}

#[tokio::test]
async fn a_removal_with_an_unknown_outcome_is_not_done() {
    for verb in [Verb::Remove, Verb::Observe] {
        let plane = Plane::start().await;
        let sandbox = plane.running(plane.owner()).await;
        plane.delete(&sandbox).await;
        plane.engine.fault(verb, Fault::Stall);
        plane.remove_all().await;
        assert_eq!(plane.state(sandbox.id).await, State::Deleting, "{verb:?}");
        plane.remove_all().await;
        assert_eq!(plane.state(sandbox.id).await, State::Gone, "{verb:?}");
    }
}

#[tokio::test]
async fn a_removal_with_a_lost_answer_is_found_done_later() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.engine.fault(Verb::Remove, Fault::LoseReply);
    plane.remove_all().await;
    assert_eq!(plane.state(sandbox.id).await, State::Deleting);
    plane.remove_all().await;
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
}

#[tokio::test]
async fn files_in_a_run_directory_are_removed_with_it() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let run_dir = plane.served().run_dirs.path(&sandbox.container.as_ref().unwrap().run_dir);
    fs::create_dir_all(run_dir.join("deep/er")).unwrap();
    std::os::unix::fs::symlink("/etc", run_dir.join("deep/link")).unwrap();
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    assert!(!run_dir.exists() && plane.run_dirs().is_empty());
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[tokio::test]
async fn an_idle_sandbox_expires_and_a_busy_one_does_not() {
    let plane = Plane::start().await;
    let (idle, busy) = (plane.running(plane.owner()).await, plane.running(plane.owner()).await);
    plane.clock.advance(Duration::from_secs(7_000));
    super::execs::run(&plane, &busy, "key", &["true"]).await.unwrap();
    plane.clock.advance(Duration::from_secs(201));
    assert_eq!(deadlines::sweep(&plane.replica.deps).await.unwrap(), 1);
    let ended = plane.sandbox(idle.id).await;
    assert_eq!((ended.state, ended.cause), (State::Deleting, Some(Cause::Expired)));
    assert_eq!(plane.state(busy.id).await, State::Running);
}

#[tokio::test]
async fn a_busy_sandbox_expires_after_its_longest_life() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    for hour in 0..23 {
        plane.clock.advance(Duration::from_secs(3_600));
        super::execs::run(&plane, &sandbox, &format!("key{hour}"), &["true"]).await.unwrap();
    }
    plane.clock.advance(Duration::from_secs(3_600));
    assert_eq!(deadlines::sweep(&plane.replica.deps).await.unwrap(), 1);
}

#[tokio::test]
async fn a_workspace_stays_for_its_retention_and_while_in_use() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let sandbox = plane.running(owner).await;
    let mut lease = plane.lease("volumes");
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_799));
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(count_volumes(&plane).await, 1);
    // A new sandbox is to mount the workspace, so its retention has ended.
    let again = plane.create(owner).await;
    plane.clock.advance(Duration::from_secs(590));
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(count_volumes(&plane).await, 1);
    plane.delete(&again).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(count_volumes(&plane).await, 0);
    assert_eq!(plane.audited("workspace.removed").await, 1);
    // The session's next workspace is new.
    assert_ne!(plane.create(owner).await.volume, sandbox.volume);
}

#[tokio::test]
async fn a_workspace_for_the_next_sandbox_gets_no_retention() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let sandbox = plane.running(owner).await;
    plane.delete(&sandbox).await;
    // A request for the session's next sandbox has the workspace's row locked while the last one's removal
    // ends.
    let mut tx = Tx::system(&plane.replica.deps.pool).await.unwrap();
    assert!(store::volumes::keep_of_session(&mut tx, owner).await.unwrap().is_some());
    let made = async {
        let waits = async || {
            sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                                 WHERE datname = current_database() AND NOT granted)",
            )
            .fetch_one(plane.replica.deps.pool.inner())
            .await
            .unwrap()
        };
        while !waits().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let next = Sandbox {
            id: SandboxId::new(),
            state: State::Requested,
            container: None,
            created_at: plane.now(),
            ..sandbox.clone()
        };
        store::sandboxes::insert(&mut tx, &next, None).await.unwrap();
        tx.commit().await.unwrap();
    };
    tokio::join!(plane.remove_all(), made);
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
    let retained: bool = sqlx::query_scalar("SELECT retain_until IS NOT NULL FROM volumes WHERE id = $1")
        .bind(sandbox.volume.0)
        .fetch_one(plane.replica.deps.pool.inner())
        .await
        .unwrap();
    assert!(!retained, "a workspace in use must have no retention");
}

#[tokio::test]
async fn a_workspace_with_an_unknown_removal_stays_committed() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    let mut lease = plane.lease("volumes");
    plane.engine.fault(Verb::RemoveVolume, Fault::LoseReply);
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(plane.audited("workspace.removed").await, 0);
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(plane.audited("workspace.removed").await, 1);
}

#[tokio::test]
async fn a_queued_sandbox_is_deleted_without_the_engine() {
    let plane = Plane::start().await;
    let owner = plane.owner();
    let requested = plane.create(owner).await;
    plane.delete(&requested).await;
    plane.engine.fault(Verb::Observe, Fault::Stall);
    plane.remove_all().await;
    let view = plane.replica.sandboxes.get(owner.account, requested.id, Duration::ZERO).await.unwrap();
    assert_eq!(view.sandbox.state, State::Gone);
    assert_eq!(plane.engine.calls(Verb::Observe), 0);
}

async fn count_volumes(plane: &Plane) -> usize {
    use sandbox_svc::testing::engine::ContainerEngine;
    plane.engine.list_volumes("test").await.unwrap().len()
}
