//! The parts of sandbox-svc put together without its workers: a test says what happens when.

use std::{
    fs,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sandbox_svc::{
    app::{Context, Served, Settings, Shared, lifecycle, provision, removal},
    config::{CreateConfig, LifetimesConfig, PoolConfig, ReconcileConfig},
    domain::{
        sandbox::{Owner, Sandbox, State},
        spec::{Network, Shape, label},
    },
    engine::{
        EngineInfo,
        fake::{FakeEngine, StartHook},
        limiter::{Limited, LimiterConfig},
    },
    run_dirs::RunDirectories,
    store::{MIGRATOR, engines, queue, sandboxes},
    worker::{Kept, creator::make_next, reconcile::Reconciler},
};
use steward_guest::{Config as GuestConfig, Limits, Roots};
use svc_core::{
    data::{lease::Singleton, pg::Tx, wake::Wake},
    id::{AccountId, SandboxId, SessionId},
    run::{
        breaker::BreakerPolicy,
        clock::{Clock, MockClock, SystemClock},
        lifecycle::Lifecycle,
    },
    testing::{TestDb, TestRedis},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const ENGINE: &str = "ENGINE";
pub(crate) const IMAGE: &str = "image";
/// Long enough for a slow machine, short enough to wait for.
const PATIENCE: Duration = Duration::from_millis(400);

/// See the module.
pub(crate) struct Plane {
    pub(crate) ctx: Shared,
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) clock: Arc<MockClock>,
    pub(crate) base: tempfile::TempDir,
    pub(crate) redis: TestRedis,
    pub(crate) db: TestDb,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("guest"), "").unwrap();
        let db = TestDb::new(&[("sandbox", &MIGRATOR)]).await;
        let redis = TestRedis::new();
        let engine = FakeEngine::on_start(ENGINE, guests(base.path().join("fs")));
        engine.add_image(IMAGE, "sha256:1");
        let clock = MockClock::at(SystemClock.now());
        let ctx = context(&db, &redis, &base, &engine, clock.clone()).await;
        Self { ctx, engine, clock, base, redis, db }
    }

    /// Another replica on the same engine, host and database.
    pub(crate) async fn replica(&self) -> Shared {
        context(&self.db, &self.redis, &self.base, &self.engine, self.clock.clone()).await
    }

    pub(crate) fn served(&self) -> &Served {
        self.ctx.served().unwrap()
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner { account: AccountId::new(), session: SessionId::new() }
    }

    /// Asks for a session's sandbox.
    pub(crate) async fn create(&self, owner: Owner) -> Sandbox {
        provision::create(&self.ctx, owner.account, owner.session).await.unwrap().sandbox
    }

    /// Makes whatever is queued.
    pub(crate) async fn make_all(&self) {
        while make_next(&self.ctx, self.served(), "maker").await.unwrap() {}
    }

    /// A session's sandbox that runs.
    pub(crate) async fn running(&self, owner: Owner) -> Sandbox {
        let requested = self.create(owner).await;
        self.make_all().await;
        let sandbox = self.sandbox(requested.id).await;
        assert_eq!(sandbox.state, State::Running, "{sandbox:?}");
        sandbox
    }

    /// Carries out every committed removal, as far as it goes now.
    pub(crate) async fn remove_all(&self) {
        let left = {
            let mut db = self.ctx.pool.acquire().await.unwrap();
            queue::unattended(&mut db, ENGINE, State::Deleting, true, 100).await.unwrap()
        };
        for (id, seen) in left {
            // What fails is left for the next time, as with the worker.
            let _ = removal::remove(&self.ctx, self.served(), id, seen, "remover").await;
        }
    }

    pub(crate) async fn delete(&self, sandbox: &Sandbox) -> Sandbox {
        let account = sandbox.owner.unwrap().account;
        lifecycle::delete(&self.ctx, account, sandbox.id, "test").await.unwrap()
    }

    /// The sandbox as its row says.
    pub(crate) async fn sandbox(&self, id: SandboxId) -> Sandbox {
        let mut db = self.ctx.pool.acquire().await.unwrap();
        sandboxes::find(&mut db, None, id).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, id: SandboxId) -> State {
        self.sandbox(id).await.state
    }

    /// Run directories that are there, revoked or not.
    pub(crate) fn run_dirs(&self) -> Vec<String> {
        self.served().run_dirs.older_than(Duration::ZERO).unwrap()
    }

    pub(crate) fn singleton(&self, ctx: &Shared, task: &str) -> Singleton {
        let name = format!("sandbox.{task}/{ENGINE}");
        Singleton::new(name, Duration::from_secs(3), &self.redis.redis(), &ctx.pool, &ctx.lifecycle)
    }

    pub(crate) fn kept(&self, task: &str) -> Kept {
        Kept::new(self.singleton(&self.ctx, task))
    }

    /// A reconciler for which a moment is a period, and nothing is too young.
    pub(crate) fn reconciler(&self, ctx: &Shared) -> Reconciler {
        let config = ReconcileConfig {
            period: Duration::from_millis(1),
            min_age: Duration::ZERO,
            lease: Duration::from_secs(3),
        };
        Reconciler::new(config, self.singleton(ctx, "reconcile"))
    }

    pub(crate) fn pool_config(&self, size: u16) -> PoolConfig {
        PoolConfig {
            size,
            life: Duration::from_secs(3_600),
            lead: Duration::from_secs(60),
            period: Duration::from_secs(1),
            failures: 3,
            failure_window: Duration::from_secs(300),
        }
    }

    /// Where the guest of a sandbox has its files.
    pub(crate) fn files(&self, sandbox: &Sandbox) -> std::path::PathBuf {
        self.base.path().join("fs").join(sandbox.id.to_string())
    }

    /// Rows of the audit log for an act.
    pub(crate) async fn audited(&self, act: &str) -> i64 {
        let mut db = self.db.owner("sandbox").await;
        sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE act = $1")
            .bind(act)
            .fetch_one(&mut db)
            .await
            .unwrap()
    }
}

async fn context(
    db: &TestDb,
    redis: &TestRedis,
    base: &tempfile::TempDir,
    engine: &Arc<FakeEngine>,
    clock: Arc<MockClock>,
) -> Shared {
    let lifecycle = Lifecycle::new();
    let ctx = Context {
        pool: db.pool("sandbox"),
        wake: Wake::start(&redis.redis(), &lifecycle),
        lifecycle,
        settings: settings(base),
        served: OnceLock::new(),
        clock: clock.clone(),
    };
    let info = EngineInfo { id: ENGINE.into(), memory_bytes: 16 << 30, root: "/".into() };
    let run_dirs = RunDirectories::open(&base.path().join("run")).unwrap();
    let mut tx = Tx::system(&ctx.pool).await.unwrap();
    let run_dir = run_dirs.base().display().to_string();
    assert!(engines::see(&mut tx, &info, &run_dir, ctx.now()).await.unwrap());
    tx.commit().await.unwrap();
    let limited = Arc::new(Limited::new(engine.clone(), limits(), clock));
    ctx.served.get_or_init(|| Served::new(info, limited, run_dirs));
    Arc::new(ctx)
}

fn settings(base: &tempfile::TempDir) -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        installation: "test".into(),
        guest: base.path().join("guest"),
        shape: Shape {
            image: IMAGE.into(),
            runtime: String::new(),
            cpu_millis: 1_000,
            memory_bytes: 1 << 30,
            network: Network::None,
        },
        create: CreateConfig {
            cap: 4,
            queue_deadline: seconds(600),
            deadline: seconds(180),
            guest_deadline: seconds(5),
            lease: seconds(15),
            poll: seconds(1),
        },
        lifetimes: LifetimesConfig {
            idle: seconds(7_200),
            most: seconds(86_400),
            removal: seconds(300),
            volume_retention: seconds(604_800),
            sweep_period: seconds(5),
        },
        overcommit: 1.5,
    }
}

fn limits() -> LimiterConfig {
    LimiterConfig {
        changes: 6,
        looks: 2,
        waiting: 64,
        look_deadline: PATIENCE,
        list_deadline: PATIENCE,
        create_deadline: PATIENCE,
        start_deadline: PATIENCE,
        remove_deadline: PATIENCE,
        breaker: BreakerPolicy { threshold: 1_000, ..BreakerPolicy::default() },
    }
}

/// Runs a real guest for each container that starts, with a filesystem of its own under `base`.
fn guests(base: std::path::PathBuf) -> StartHook {
    Arc::new(move |spec| {
        let place = base.join(&spec.labels[label::SANDBOX]);
        for directory in ["workspace", "tmp", "home/user"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        let run_dir = spec.mounts.iter().find_map(|mount| match &mount.source {
            sandbox_svc::domain::spec::MountSource::Bind(path) if !mount.read_only => Some(path.clone()),
            _ => None,
        });
        let config = GuestConfig {
            run_dir: run_dir.unwrap(),
            sandbox_id: spec.command[2].clone(),
            generation: spec.command[3].parse().unwrap(),
            roots: Roots::under(&place),
            limits: Limits::STANDARD,
        };
        let ended = CancellationToken::new();
        let stop = ended.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // As a container's end does, this drops what runs in it.
            runtime.block_on(async {
                tokio::select! {
                    served = steward_guest::serve(config, std::future::pending()) => served.unwrap(),
                    () = stop.cancelled() => {}
                }
            });
        });
        let guard: DropGuard = ended.drop_guard();
        Box::new(guard)
    })
}
