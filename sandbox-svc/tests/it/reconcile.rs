//! The comparison of engine and rows: nothing leaks, and nothing that lives is destroyed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbox_svc::{
    Error,
    app::{Shared, making, removal, volume_name},
    domain::{
        sandbox::{Cause, State},
        spec::{ContainerSpec, Identity, Places},
    },
    engine::{
        ContainerEngine, ContainerId,
        fake::{Fault, Verb},
    },
    store::engines,
    worker::{
        reconcile::{Reconciler, Report},
        volumes,
    },
};
use svc_core::id::SandboxId;
use tokio::time::sleep;

use crate::plane::{ENGINE, Plane};

/// Makes a container as if by a process whose rows were lost.
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
    let places = Places {
        guest: plane.base.path().join("guest"),
        run_dir: plane.served().run_dirs.path(&plane.served().run_dirs.make().unwrap()),
        volume: format!("steward-workspace-{}", identity.sandbox),
    };
    let spec = ContainerSpec::of(&identity, &plane.ctx.settings.shape, "sha256:1", &places, at);
    (identity.sandbox, plane.engine.create(&spec).await.unwrap())
}

async fn pass(reconciler: &mut Reconciler, ctx: &Shared) -> Report {
    let report = reconciler.pass(ctx).await.unwrap();
    // A period goes by.
    sleep(Duration::from_millis(3)).await;
    report
}

fn ids(plane: &Plane) -> Vec<ContainerId> {
    plane.engine.containers().into_iter().map(|container| container.id).collect()
}

#[tokio::test]
async fn a_container_without_a_row_is_removed_after_two_sightings() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let (sandbox, _) = stray(&plane, "test", ENGINE, plane.ctx.now()).await;
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.orphans, 0);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.orphans, 1);
    let row = plane.sandbox(sandbox).await;
    assert_eq!((row.state, row.cause), (State::Deleting, Some(Cause::Orphaned)));
    plane.remove_all().await;
    assert!(ids(&plane).is_empty());
    assert_eq!(plane.state(sandbox).await, State::Gone);
}

#[tokio::test]
async fn containers_of_others_and_strange_ones_are_left_alone() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    stray(&plane, "another", ENGINE, plane.ctx.now()).await;
    stray(&plane, "test", "ANOTHER", plane.ctx.now()).await;
    let before = ids(&plane);
    for _ in 0..3 {
        let report = pass(&mut reconciler, &plane.ctx).await;
        assert_eq!((report.orphans, report.leftovers, report.strange), (0, 0, 1));
    }
    plane.remove_all().await;
    assert_eq!(ids(&plane), before);
}

#[tokio::test]
async fn a_container_that_is_too_young_or_of_unknown_age_is_left_alone() {
    let plane = Plane::start().await;
    let config = sandbox_svc::config::ReconcileConfig {
        period: Duration::from_millis(1),
        min_age: Duration::from_secs(300),
        lease: Duration::from_secs(3),
    };
    let mut reconciler = Reconciler::new(config, plane.singleton(&plane.ctx, "reconcile"));
    stray(&plane, "test", ENGINE, plane.ctx.now()).await;
    for _ in 0..3 {
        assert_eq!(pass(&mut reconciler, &plane.ctx).await.orphans, 0);
    }
    plane.clock.advance(Duration::from_secs(300));
    pass(&mut reconciler, &plane.ctx).await;
    assert_eq!(plane.engine.containers().len(), 1);
}

#[tokio::test]
async fn a_listing_that_fails_counts_for_nothing() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    for fault in [Fault::Stall, Fault::Fail(500), Fault::LoseReply] {
        plane.engine.fault(Verb::List, fault);
        assert!(reconciler.pass(&plane.ctx).await.is_err(), "{fault:?}");
        assert_eq!(plane.state(sandbox.id).await, State::Running, "{fault:?}");
    }
}

#[tokio::test]
async fn a_row_whose_container_is_lost_or_ended_goes_after_two_sightings() {
    for lost in [true, false] {
        let plane = Plane::start().await;
        let mut reconciler = plane.reconciler(&plane.ctx);
        let sandbox = plane.running(plane.owner()).await;
        let other = plane.running(plane.owner()).await;
        let id = ContainerId(sandbox.container.clone().unwrap().id.unwrap());
        if lost {
            plane.engine.vanish(&id)
        } else {
            plane.engine.exit(&id)
        }
        assert_eq!(pass(&mut reconciler, &plane.ctx).await.missing, 0);
        assert_eq!(pass(&mut reconciler, &plane.ctx).await.missing, 1);
        let cause = if lost { Cause::ContainerLost } else { Cause::ContainerExited };
        assert_eq!(plane.sandbox(sandbox.id).await.cause, Some(cause));
        plane.remove_all().await;
        assert_eq!(plane.state(sandbox.id).await, State::Gone);
        assert_eq!(plane.state(other.id).await, State::Running);
        // The session gets another one, with its workspace.
        let again = plane.running(sandbox.owner.unwrap()).await;
        assert_eq!(again.volume, sandbox.volume);
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_looked_at_is_not_lost() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    pass(&mut reconciler, &plane.ctx).await;
    plane.engine.fault(Verb::Observe, Fault::Stall);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.missing, 0);
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn a_container_that_outlived_its_row_is_removed() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    let container = sandbox.container.clone().unwrap();
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    // The daemon brings it back: a restore, or a create that came later than anything should.
    let identity = plane.ctx.identity(&sandbox, &container);
    let mut places = plane.ctx.places(plane.served(), &sandbox, &container);
    places.run_dir = plane.served().run_dirs.path(&plane.served().run_dirs.make().unwrap());
    let spec = ContainerSpec::of(&identity, &sandbox.shape, &container.image, &places, sandbox.created_at);
    plane.engine.create(&spec).await.unwrap();
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.leftovers, 0);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.leftovers, 1);
    assert!(ids(&plane).is_empty());
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
}

#[tokio::test]
async fn one_replica_reconciles_and_sightings_of_another_lease_count_for_nothing() {
    let plane = Plane::start().await;
    let replica = plane.replica().await;
    let (mut first, mut second) = (plane.reconciler(&plane.ctx), plane.reconciler(&replica));
    stray(&plane, "test", ENGINE, plane.ctx.now()).await;
    pass(&mut first, &plane.ctx).await;
    // The lease is the first one's: the second sees nothing at all, however often it looks.
    for _ in 0..3 {
        assert_eq!(pass(&mut second, &replica).await, Report::default());
    }
    // The first one is gone; the second starts over.
    drop(first);
    let mut passes = 0;
    while pass(&mut second, &replica).await.orphans == 0 {
        passes += 1;
        assert!(passes < 500, "the lease was never given back");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(passes >= 1);
}

#[tokio::test]
async fn a_holder_that_lost_its_lease_writes_nothing() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    plane.engine.vanish(&ids(&plane)[0]);
    pass(&mut reconciler, &plane.ctx).await;
    // Another holder has taken over in Postgres; this one does not know yet.
    let mut db = plane.db.owner("sandbox").await;
    sqlx::query("UPDATE leases SET epoch = epoch + 1, holder = gen_random_uuid()")
        .execute(&mut db)
        .await
        .unwrap();
    assert!(reconciler.pass(&plane.ctx).await.is_err());
    assert_eq!(plane.state(sandbox.id).await, State::Running);
}

#[tokio::test]
async fn run_directories_that_nobody_has_are_removed_and_others_are_not() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    plane.served().run_dirs.make().unwrap();
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.run_dirs, 0);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.run_dirs, 1);
    assert_eq!(plane.run_dirs(), [sandbox.container.unwrap().run_dir]);
}

#[tokio::test]
async fn a_volume_without_a_row_is_removed_only_after_its_retention() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    // The database is restored to a time before there was such a session.
    let mut db = plane.db.superuser().await;
    for table in ["execs", "sandboxes", "volumes"] {
        let delete = sqlx::AssertSqlSafe(format!("DELETE FROM sandbox.{table}"));
        sqlx::query(delete).execute(&mut db).await.unwrap();
    }
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.volumes, 0);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.volumes, 1);
    let mut kept = plane.kept("volumes");
    sandbox_svc::worker::volumes::pass(&plane.ctx, &mut kept).await.unwrap();
    assert_eq!(plane.engine.list_volumes("test").await.unwrap().len(), 1);
    plane.clock.advance(Duration::from_secs(604_800));
    sandbox_svc::worker::volumes::pass(&plane.ctx, &mut kept).await.unwrap();
    assert!(plane.engine.list_volumes("test").await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_done_when_another_engine_answers() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let other = sandbox_svc::engine::fake::FakeEngine::new("ANOTHER");
    let info = sandbox_svc::engine::EngineInfo { id: ENGINE.into(), memory_bytes: 1, root: "/".into() };
    let replica = plane.replica().await;
    let run_dirs = plane.served().run_dirs.clone();
    let ctx = std::sync::Arc::new(sandbox_svc::app::Context {
        pool: replica.pool.clone(),
        clock: replica.clock.clone(),
        wake: replica.wake.clone(),
        lifecycle: replica.lifecycle.clone(),
        settings: replica.settings.clone(),
        served: std::sync::OnceLock::from(sandbox_svc::app::Served::new(info, other, run_dirs)),
    });
    let mut reconciler = plane.reconciler(&ctx);
    for _ in 0..3 {
        let refused = reconciler.pass(&ctx).await;
        assert!(matches!(refused, Err(Error::OtherEngine(_))), "{refused:?}");
    }
    assert_eq!(plane.state(sandbox.id).await, State::Running);
    // Nor is it believed that a container is absent.
    plane.delete(&sandbox).await;
    let epoch = plane.sandbox(sandbox.id).await.epoch;
    let refused = removal::remove(&ctx, ctx.served().unwrap(), sandbox.id, epoch, "remover").await;
    assert!(matches!(refused, Err(Error::OtherEngine(_))), "{refused:?}");
    assert_eq!(plane.state(sandbox.id).await, State::Deleting);
    plane.remove_all().await;
    assert_eq!(plane.state(sandbox.id).await, State::Gone);
    assert!(ids(&plane).is_empty());
}

#[tokio::test]
async fn a_volume_that_came_after_its_row_was_final_is_removed() {
    let plane = Plane::start().await;
    let mut reconciler = plane.reconciler(&plane.ctx);
    let sandbox = plane.running(plane.owner()).await;
    let kept = plane.running(plane.owner()).await;
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    plane.clock.advance(Duration::from_secs(604_800));
    volumes::pass(&plane.ctx, &mut plane.kept("volumes")).await.unwrap();
    // A worker that was stopped before it made the volume wakes up now.
    plane.engine.create_volume(&making::volume_spec(&plane.ctx, &sandbox)).await.unwrap();
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.late_volumes, 0);
    assert_eq!(pass(&mut reconciler, &plane.ctx).await.late_volumes, 1);
    let left: Vec<_> =
        plane.engine.list_volumes("test").await.unwrap().into_iter().map(|volume| volume.name).collect();
    assert_eq!(left, [volume_name(kept.volume)]);
}

#[tokio::test]
async fn a_replica_with_other_run_directories_is_told_and_serves_no_engine_with_sandboxes() {
    let plane = Plane::start().await;
    let info = &plane.served().info;
    let mut db = plane.ctx.pool.acquire().await.unwrap();
    assert!(engines::see(&mut db, info, "/elsewhere", plane.ctx.now()).await.unwrap());
    assert!(engines::see(&mut db, info, "/run", plane.ctx.now()).await.unwrap());
    let sandbox = plane.running(plane.owner()).await;
    assert!(!engines::see(&mut db, info, "/elsewhere", plane.ctx.now()).await.unwrap());
    assert!(engines::see(&mut db, info, "/run", plane.ctx.now()).await.unwrap());
    plane.delete(&sandbox).await;
    plane.remove_all().await;
    assert!(engines::see(&mut db, info, "/elsewhere", plane.ctx.now()).await.unwrap());
}
