//! Runs sandbox-svc without its workers: each test decides when a worker acts.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use sandbox_svc::{
    MIGRATOR,
    testing::{
        CreateSettings, Creator, Deps, EngineSlot, Execs, Files, Lifetimes, Metrics, Notices, PassLease,
        PoolSettings, ReconcileSettings, Reconciler, Reconciliation, Remover, RunDirectories, Sandboxes,
        Served, Settings,
        domain::{
            limits::LimiterSettings,
            sandbox::{Owner, Sandbox, State},
            shape::{Network, Shape},
            spec::{ContainerSpec, Identity, MountSource, MountSources, label, volume_name},
        },
        engine::{
            EngineInfo,
            fake::{FakeEngine, StartHook},
            limiter::Limited,
        },
        store::sandboxes,
        workspaces,
    },
};
use steward_guest::{Config as GuestConfig, Limits, Roots};
use svc_core::{
    data::{idempotency::Once, lease::Singleton, wake::Wake},
    id::{AccountId, SandboxId, SessionId},
    run::{
        breaker::BreakerPolicy,
        clock::{Clock, MockClock, SystemClock},
        lifecycle::Lifecycle,
    },
    testing::{TestDb, TestRedis},
    wire::{
        assertion::{self, Signer},
        client::{Peer, PeerConfig},
    },
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const ENGINE: &str = "ENGINE";
pub(crate) const IMAGE: &str = "image";
/// Deadline of engine calls: long enough for a slow machine, short enough for a test to wait for.
const DEADLINE: Duration = Duration::from_millis(400);

/// The use cases of one replica.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) deps: Deps,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) execs: Execs,
    pub(crate) files: Files,
    pub(crate) creator: Creator,
}

impl Replica {
    pub(crate) fn of(deps: Deps) -> Self {
        Self {
            sandboxes: Sandboxes { deps: deps.clone() },
            execs: Execs { deps: deps.clone() },
            files: Files { deps: deps.clone() },
            creator: Creator { deps: deps.clone(), holder: "creator".into() },
            deps,
        }
    }
}

/// A replica with its stores, engine and clock.
pub(crate) struct Plane {
    pub(crate) replica: Replica,
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
        let replica = replica(&db, &redis, &base, &engine, clock.clone()).await;
        Self { replica, engine, clock, base, redis, db }
    }

    /// Starts another replica on the same engine, host and database.
    pub(crate) async fn another(&self) -> Replica {
        replica(&self.db, &self.redis, &self.base, &self.engine, self.clock.clone()).await
    }

    pub(crate) fn served(&self) -> &Served {
        self.replica.deps.engine.get().unwrap()
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner { account: AccountId::new(), session: SessionId::new() }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.replica.deps.clock.now()
    }

    /// Requests a session's sandbox.
    pub(crate) async fn create(&self, owner: Owner) -> Sandbox {
        self.replica.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.unwrap().sandbox
    }

    /// Creates every queued sandbox.
    pub(crate) async fn make_all(&self) {
        while self.replica.creator.create_next().await.unwrap() {}
    }

    /// Requests and creates a session's sandbox.
    pub(crate) async fn running(&self, owner: Owner) -> Sandbox {
        let requested = self.create(owner).await;
        self.make_all().await;
        let sandbox = self.sandbox(requested.id).await;
        assert_eq!(sandbox.state, State::Running, "{sandbox:?}");
        sandbox
    }

    /// Carries out every committed removal, as far as it can be now.
    pub(crate) async fn remove_all(&self) {
        let remover = Remover { deps: self.replica.deps.clone(), holder: "remover".into() };
        for row in remover.deps.list_unattended(State::Deleting, true, 100).await.unwrap() {
            // A failed removal is left for the next call, as the worker does.
            let _ = remover.remove(row.id, row.epoch).await;
        }
    }

    pub(crate) async fn delete(&self, sandbox: &Sandbox) -> Sandbox {
        let account = sandbox.owner.unwrap().account;
        self.replica.sandboxes.delete(account, sandbox.id, "test", &Once::unkeyed()).await.unwrap()
    }

    /// Reads a sandbox's row.
    pub(crate) async fn sandbox(&self, id: SandboxId) -> Sandbox {
        let mut db = self.replica.deps.pool.acquire().await.unwrap();
        sandboxes::find(&mut db, None, id).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, id: SandboxId) -> State {
        self.sandbox(id).await.state
    }

    /// Lists the run directories, revoked ones included.
    pub(crate) fn run_dirs(&self) -> Vec<String> {
        self.served().run_dirs.older_than(Duration::ZERO).unwrap()
    }

    pub(crate) fn lease_of(&self, replica: &Replica, task: &str) -> PassLease {
        let name = format!("sandbox.{task}/{ENGINE}");
        let Deps { pool, lifecycle, .. } = &replica.deps;
        let ttl = Duration::from_secs(3);
        PassLease { singleton: Singleton::new(name, ttl, &self.redis.redis(), pool, lifecycle), held: None }
    }

    pub(crate) fn lease(&self, task: &str) -> PassLease {
        self.lease_of(&self.replica, task)
    }

    /// A reconciler with a period of 1 ms and no minimum age.
    pub(crate) fn reconciler(&self, replica: &Replica) -> Reconciler {
        self.reconciler_with(replica, Duration::ZERO)
    }

    pub(crate) fn reconciler_with(&self, replica: &Replica, min_age: Duration) -> Reconciler {
        let reconcile =
            ReconcileSettings { period: Duration::from_millis(1), min_age, lease: Duration::from_secs(3) };
        let settings = Settings { reconcile, ..(*replica.deps.settings).clone() };
        let deps = Deps { settings: Arc::new(settings), ..replica.deps.clone() };
        Reconciler { reconciliation: Reconciliation::new(deps), lease: self.lease_of(replica, "reconcile") }
    }

    /// Removes the workspaces that are due. Panics if the lease cannot be acquired.
    pub(crate) async fn remove_workspaces(&self, lease: &mut PassLease) {
        let held = lease.hold().await.unwrap().unwrap();
        workspaces::remove_due(&self.replica.deps, held).await.unwrap();
    }

    /// Returns the use cases' dependencies, with a pool of `size`.
    pub(crate) fn with_pool(&self, size: u16) -> Deps {
        let deps = &self.replica.deps;
        let pool = PoolSettings { size, ..deps.settings.pool.clone() };
        Deps { settings: Arc::new(Settings { pool, ..(*deps.settings).clone() }), ..deps.clone() }
    }

    /// Returns the specification of the container that the service creates for a sandbox.
    pub(crate) fn spec(&self, sandbox: &Sandbox) -> ContainerSpec {
        let container = sandbox.container.as_ref().unwrap();
        let identity = Identity::of(&self.replica.deps.settings.installation, sandbox, container);
        let mounts = MountSources {
            guest: self.base.path().join("guest"),
            run_dir: self.served().run_dirs.path(&container.run_dir),
            volume: volume_name(sandbox.volume),
        };
        ContainerSpec::of(&identity, &sandbox.shape, &container.image, &mounts, sandbox.created_at)
    }

    /// Returns the directory on this machine that is the root of a sandbox's files.
    pub(crate) fn files(&self, sandbox: &Sandbox) -> std::path::PathBuf {
        self.base.path().join("fs").join(sandbox.id.to_string())
    }

    /// Counts the rows of the audit log for an act.
    pub(crate) async fn audited(&self, act: &str) -> i64 {
        let mut db = self.db.owner("sandbox").await;
        sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE act = $1")
            .bind(act)
            .fetch_one(&mut db)
            .await
            .unwrap()
    }
}

async fn replica(
    db: &TestDb,
    redis: &TestRedis,
    base: &tempfile::TempDir,
    engine: &Arc<FakeEngine>,
    clock: Arc<MockClock>,
) -> Replica {
    let lifecycle = Lifecycle::new();
    let deps = Deps {
        pool: db.pool("sandbox"),
        notices: Notices::new(Wake::start(&redis.redis(), &lifecycle)),
        lifecycle,
        settings: Arc::new(settings(base)),
        engine: EngineSlot::default(),
        metrics: Metrics::default(),
        clock: clock.clone(),
    };
    let info = EngineInfo { id: ENGINE.into(), memory_bytes: 16 << 30, root: "/".into() };
    let run_dirs = RunDirectories::open(&base.path().join("run")).unwrap();
    let limited = Arc::new(Limited::new(engine.clone(), limits(), clock));
    let served = Served::new(info, limited, run_dirs);
    served.register(&deps.pool, &deps.clock).await.unwrap();
    deps.engine.fill(served);
    Replica::of(deps)
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
        create: CreateSettings {
            cap: 4,
            queue_deadline: seconds(600),
            deadline: seconds(180),
            guest_deadline: seconds(5),
            lease: seconds(15),
            poll: seconds(1),
        },
        lifetimes: Lifetimes {
            idle: seconds(7_200),
            max: seconds(86_400),
            removal: seconds(300),
            volume_retention: seconds(604_800),
            sweep_period: seconds(5),
        },
        pool: PoolSettings {
            size: 0,
            life: seconds(3_600),
            lead: seconds(60),
            period: seconds(1),
            failures: 3,
            failure_window: seconds(300),
        },
        reconcile: ReconcileSettings { period: seconds(60), min_age: seconds(300), lease: seconds(30) },
        overcommit: 1.5,
    }
}

fn limits() -> LimiterSettings {
    LimiterSettings {
        changes: 6,
        looks: 2,
        waiting: 64,
        look_deadline: DEADLINE,
        list_deadline: DEADLINE,
        create_deadline: DEADLINE,
        start_deadline: DEADLINE,
        remove_deadline: DEADLINE,
        breaker: BreakerPolicy { threshold: 1_000, ..BreakerPolicy::default() },
    }
}

/// Builds a client with which purge-svc calls the service `name` at `address`.
pub(crate) fn peer(name: &'static str, address: SocketAddr) -> Peer {
    let config = PeerConfig { urls: vec![format!("http://{address}")], timeout: Duration::from_secs(30) };
    let (private, _) = assertion::generate_key().unwrap();
    let key = BASE64.decode(private).unwrap();
    let signer = Signer::new("purge-svc", "purge-svc", &key, SystemClock::shared()).unwrap();
    Peer::lazy(name, &config, Arc::new(signer)).unwrap()
}

/// Runs a real guest for each container that starts, with its own directory under `base` as root.
fn guests(base: std::path::PathBuf) -> StartHook {
    Arc::new(move |spec| {
        let place = base.join(&spec.labels[label::SANDBOX]);
        for directory in ["workspace", "tmp", "home/user"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        let run_dir = spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Bind(path) if !mount.read_only => Some(path.clone()),
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
            // The end of a container ends the processes in it; here dropping the runtime ends the guest's
            // tasks.
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
