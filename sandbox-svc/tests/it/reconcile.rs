//! Tests the reconciliation of engine and rows: no object leaks, and no live sandbox is destroyed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbox_svc::testing::{
    Deps, EngineSlot, Error, Reconciler, Remover, Report, Served,
    domain::{
        sandbox::{Cause, State},
        spec::{ContainerSpec, Identity, MountSources, VolumeSpec, volume_name},
    },
    engine::{
        ContainerEngine, ContainerId, EngineInfo,
        fake::{FakeEngine, Fault, Verb},
    },
    store::engines,
};
use svc_core::{data::pg, id::SandboxId};
use tokio::time::sleep;

use crate::plane::{ENGINE, Plane, Replica};

/// Creates a container without a row.
async fn stray(
    plane: &Plane,
    installation: &str,
    engine: &str,
    at: DateTime<Utc>,
) -> (SandboxId, ContainerId) {
    let identity = Identity {
        installation: installation.into(),
        engine: engine.into(),
        sandbox: SandboxId::new(),
        generation: 2,
    };
    let mounts = MountSources {
        guest: plane.base.path().join("guest"),
        run_dir: plane.served().run_dirs.path(&plane.served().run_dirs.make().unwrap()),
        volume: format!("steward-workspace-{}", identity.sandbox),
    };
    let spec = ContainerSpec::of(&identity, &plane.replica.deps.settings.shape, "sha256:1", &mounts, at);
    (identity.sandbox, plane.engine.create(&spec).await.unwrap())
}

async fn pass(reconciler: &mut Reconciler) -> Report {
    let report = reconciler.pass().await.unwrap();
    // The pause is longer than the period.
    sleep(Duration::from_millis(3)).await;
    report
}

fn ids(plane: &Plane) -> Vec<ContainerId> {
    plane.engine.containers().into_iter().map(|container| container.id).collect()
}

#[tokio::test]
async fn a_container_without_a_row_is_removed_after_two_sightings() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let (sandbox, _) = stray(&plane, "test", ENGINE, plane.now()).await;
    assert_eq!(pass(&mut reconciler).await.orphans, 0);
    assert_eq!(pass(&mut reconciler).await.orphans, 1);
    let row = plane.sandbox(sandbox).await;
    assert_eq!((row.state, row.cause), (State::Deleting, Some(Cause::Orphaned)));
    plane.remove_all().await;
    assert!(ids(&plane).is_empty());
    assert_eq!(plane.state(sandbox).await, State::Gone);
}

#[tokio::test]
async fn foreign_and_contradictory_containers_are_left_alone() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    stray(&plane, "another", ENGINE, plane.now()).await;
    stray(&plane, "test", "ANOTHER", plane.now()).await;
    let before = ids(&plane);
    for _ in 0..3 {
        let report = pass(&mut reconciler).await;
        assert_eq!((report.orphans, report.leftovers, report.contradictory), (0, 0, 1));
    }
    plane.remove_all().await;
    assert_eq!(ids(&plane), before);
}

#[tokio::test]
async fn a_container_below_the_minimum_age_is_left_alone() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler_with(&plane.replica, Duration::from_secs(300));
    stray(&plane, "test", ENGINE, plane.now()).await;
    for _ in 0..3 {
        assert_eq!(pass(&mut reconciler).await.orphans, 0);
    }
    plane.clock.advance(Duration::from_secs(300));
    pass(&mut reconciler).await;
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_listing_that_fails_counts_for_nothing() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    for fault in [Fault::Stall, Fault::Fail(500), Fault::LoseReply] {
        plane.engine.fault(Verb::List, fault);
        assert!(reconciler.pass().await.is_err(), "{fault:?}");
        assert_eq!(plane.state(sandbox.id).await, State::Running, "{fault:?}");
    }
}

#[tokio::test]
async fn a_row_without_a_running_container_is_removed() {
    for lost in [true, false] {
        let plane = Plane::start().await;
        let mut reconciler = plane.reconciler(&plane.replica);
        let sandbox = plane.running(plane.owner()).await;
        let other = plane.running(plane.owner()).await;
        let id = ContainerId(sandbox.container.clone().unwrap().id.unwrap());
        if lost {
            plane.engine.vanish(&id)
        } else {
            plane.engine.exit(&id)
        }
        assert_eq!(pass(&mut reconciler).await.missing, 0);
        assert_eq!(pass(&mut reconciler).await.missing, 1);
        let cause = if lost { Cause::ContainerLost } else { Cause::ContainerExited };
        assert_eq!(plane.sandbox(sandbox.id).await.cause, Some(cause));
        plane.remove_all().await;
        assert_eq!(plane.state(sandbox.id).await, State::Gone);
        assert_eq!(plane.state(other.id).await, State::Running);
        // The session's next sandbox has its workspace.
        let again = plane.running(sandbox.owner.unwrap()).await;
        assert_eq!(again.volume, sandbox.volume);
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_read_is_not_lost() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    pass(&mut reconciler).await;
    plane.engine.fault(Verb::Observe, Fault::Stall);
    assert_eq!(pass(&mut reconciler).await.missing, 0);
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn a_container_with_a_final_row_is_removed() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    // The daemon restores the container, and a run directory exists for it.
    let mut restored = sandbox.clone();
    restored.container.as_mut().unwrap().run_dir = plane.served().run_dirs.make().unwrap();
    plane.engine.create(&plane.spec(&restored)).await.unwrap();
    assert_eq!(pass(&mut reconciler).await.leftovers, 0);
    assert_eq!(pass(&mut reconciler).await.leftovers, 1);
    assert!(ids(&plane).is_empty());
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
}

#[tokio::test]
async fn sightings_under_another_lease_do_not_count() {
    let plane = Plane::start().await;
    let (mut first, mut second) =
        (plane.reconciler(&plane.replica), plane.reconciler(&plane.another().await));
    stray(&plane, "test", ENGINE, plane.now()).await;
    pass(&mut first).await;
    // The first reconciler has the lease, so the second one makes no pass.
    for _ in 0..3 {
        assert_eq!(pass(&mut second).await, Report::default());
    }
    // Dropping the first reconciler releases its lease. The second one then acquires it, and starts without
    // sightings: its first pass must act on nothing.
    drop(first);
    let mut passes = 0;
    while pass(&mut second).await.orphans == 0 {
        passes += 1;
        assert!(passes < 500, "the lease was never released");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(passes >= 1);
}

#[tokio::test]
async fn a_holder_that_lost_its_lease_writes_nothing() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    pass(&mut reconciler).await;
    // Another replica takes the lease in Postgres; this one has not noticed yet.
    let mut db = plane.db.owner("sandbox").await;
    sqlx::query("UPDATE leases SET epoch = epoch + 1, holder = gen_random_uuid()")
        .execute(&mut db)
        .await
        .unwrap();
    assert!(reconciler.pass().await.is_err());
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn only_run_directories_without_a_live_row_are_removed() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.served().run_dirs.make().unwrap();
    assert_eq!(pass(&mut reconciler).await.run_dirs, 0);
    assert_eq!(pass(&mut reconciler).await.run_dirs, 1);
    assert_eq!(plane.run_dirs(), [sandbox.container.unwrap().run_dir]);
}

#[tokio::test]
async fn a_lease_lost_in_a_pass_saves_directories_and_volumes() {
    for volume in [false, true] {
        let plane = Plane::start().await;
        let mut reconciler = plane.reconciler(&plane.replica);
        if volume {
            let sandbox = plane.running(plane.owner()).await;
            plane.delete(&sandbox).await;
            plane.remove_all().await;
            plane.clock.advance(Duration::from_secs(604_800));
            plane.remove_workspaces(&mut plane.lease("volumes")).await;
            plane.engine.create_volume(&VolumeSpec::of("test", &sandbox)).await.unwrap();
        } else {
            plane.served().run_dirs.make().unwrap();
        }
        pass(&mut reconciler).await;
        // No container differs from its row, so the directory or the volume is the first to be acted on.
        let mut db = plane.db.owner("sandbox").await;
        sqlx::query("UPDATE leases SET epoch = epoch + 1, holder = gen_random_uuid()")
            .execute(&mut db)
            .await
            .unwrap();
        assert!(matches!(reconciler.pass().await, Err(Error::Pg(pg::Error::Fenced(_)))));
        let left = plane.run_dirs().len() + plane.engine.list_volumes("test").await.unwrap().len();
        assert_eq!(left, 1, "volume: {volume}");
    }
}

#[tokio::test]
async fn a_volume_without_a_row_is_removed_only_after_its_retention() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    // The database is restored to a time before the session existed.
    let mut db = plane.db.superuser().await;
    for table in ["execs", "sandboxes", "volumes"] {
        let delete = sqlx::AssertSqlSafe(format!("DELETE FROM sandbox.{table}"));
        sqlx::query(delete).execute(&mut db).await.unwrap();
    }
    assert_eq!(pass(&mut reconciler).await.volumes, 0);
    assert_eq!(pass(&mut reconciler).await.volumes, 1);
    let mut lease = plane.lease("volumes");
    plane.remove_workspaces(&mut lease).await;
    assert_eq!(plane.engine.list_volumes("test").await.unwrap().len(), 1);
    plane.clock.advance(Duration::from_secs(604_800));
    plane.remove_workspaces(&mut lease).await;
    assert!(plane.engine.list_volumes("test").await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_done_when_another_engine_answers() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let other = FakeEngine::new("ANOTHER");
    let info = EngineInfo { id: ENGINE.into(), memory_bytes: 1, root: "/".into() };
    let engine = EngineSlot::default();
    engine.fill(Served::new(info, other, plane.served().run_dirs.clone()));
    let replica = Replica::of(Deps { engine, ..plane.another().await.deps });
    let mut reconciler = plane.reconciler(&replica);
    for _ in 0..3 {
        let refused = reconciler.pass().await;
        assert!(matches!(refused, Err(Error::OtherEngine(_))), "{refused:?}");
    }
    assert_eq!(plane.state(sandbox.id).await, State::Running);
    // A removal does not accept the absence that the other engine reports, either.
    plane.delete(&sandbox).await;
    let epoch = plane.sandbox(sandbox.id).await.epoch;
    let refused = Remover { deps: replica.deps, holder: "remover".into() }.remove(sandbox.id, epoch).await;
    assert!(matches!(refused, Err(Error::OtherEngine(_))), "{refused:?}");
    assert_eq!(plane.state(sandbox.id).await, State::Deleting);
    plane.remove_all().await;
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
    assert!(ids(&plane).is_empty());
}

#[tokio::test]
async fn a_volume_with_a_final_row_is_removed() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.replica);
    let sandbox = plane.running(plane.owner()).await;
    let kept = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    plane.remove_workspaces(&mut plane.lease("volumes")).await;
    // A suspended worker resumes and creates the volume now.
    plane.engine.create_volume(&VolumeSpec::of("test", &sandbox)).await.unwrap();
    assert_eq!(pass(&mut reconciler).await.late_volumes, 0);
    assert_eq!(pass(&mut reconciler).await.late_volumes, 1);
    let left: Vec<_> =
        plane.engine.list_volumes("test").await.unwrap().into_iter().map(|volume| volume.name).collect();
    assert_eq!(left, [volume_name(kept.volume)]);
}

#[tokio::test]
async fn a_replica_with_other_run_directories_is_refused() {
    let plane = Plane::start().await;
    let info = &plane.served().info;
    let mut db = plane.replica.deps.pool.acquire().await.unwrap();
    assert!(engines::register(&mut db, info, "/elsewhere", plane.now()).await.unwrap());
    assert!(engines::register(&mut db, info, "/run", plane.now()).await.unwrap());
    let sandbox = plane.running(plane.owner()).await;
    assert!(!engines::register(&mut db, info, "/elsewhere", plane.now()).await.unwrap());
    assert!(engines::register(&mut db, info, "/run", plane.now()).await.unwrap());
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    assert!(engines::register(&mut db, info, "/elsewhere", plane.now()).await.unwrap());
}
