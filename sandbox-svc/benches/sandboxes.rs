//! Compares sandboxes with the engine alone, on real Docker, Postgres and Redis.
//!
//! * A command through journal and guest, compared with the same command by `docker exec` in the same
//!   container.
//! * A claim from the warm pool, compared with creating and starting a container of the same configuration.
//! * A cold create from the request to the guest's answer, compared with creating and starting a container of
//!   the same configuration without waiting for an answer from it.
//!
//! The benchmark fails if a ratio exceeds its bound by more than the noise.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark may fail")]

use std::{
    collections::BTreeMap,
    process::{Command as Process, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sandbox_svc::{
    Config, MIGRATOR,
    testing::{
        Creator, Deps, EngineSlot, Execs, HostLevel, Installation, Metrics, Notices, PassLease, Remover,
        RunDirectories, Sandboxes, Served, docker, docker_host,
        domain::{
            exec::{Call, Command, ExecState, Key},
            sandbox::{Owner, Sandbox, State},
            spec::{ContainerSpec, Identity, MountSources},
        },
        engine::{ContainerEngine, ContainerId, Handle, Observed, limiter::Limited},
        guest_program, pool, sandbox_image,
    },
};
use svc_core::{
    data::{idempotency::Once, lease::Singleton, wake::Wake},
    id::{AccountId, SandboxId, SessionId},
    run::{clock::SystemClock, lifecycle::Lifecycle},
    testing::{
        TestDb, TestRedis,
        bench::{Floor, ROUNDS, compare, milliseconds},
    },
};

const EXECS: u32 = 20;
const CREATES: u32 = 3;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let met = runtime.block_on(async {
        let ground = Ground::prepare().await;
        let met = [exec(&ground).await, claim(&ground).await, cold(&ground).await];
        ground.end().await;
        met
    });
    if met.into_iter().all(|met| met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The use cases and the engine that they are compared with.
struct Ground {
    deps: Deps,
    sandboxes: Sandboxes,
    creator: Creator,
    remover: Remover,
    engine: Arc<dyn ContainerEngine>,
    db: TestDb,
    redis: TestRedis,
    base: tempfile::TempDir,
    installation: Installation,
}

impl Ground {
    async fn prepare() -> Self {
        let (base, installation) = (tempfile::tempdir().expect("a directory"), Installation::default());
        let config = config(&base, &installation);
        let db = TestDb::new(&[("sandbox", &MIGRATOR)]).await;
        let (redis, lifecycle, clock) = (TestRedis::new(), Lifecycle::new(), SystemClock::shared());
        let engine: Arc<dyn ContainerEngine> = Arc::new(docker());
        let info = engine.info().await.expect("an engine");
        let run_dirs = RunDirectories::open(&config.own.run_dir).expect("run directories");
        let deps = Deps {
            pool: db.pool("sandbox"),
            notices: Notices::new(Wake::start(&redis.redis(), &lifecycle)),
            lifecycle,
            settings: Arc::new(config.own.settings()),
            engine: EngineSlot::default(),
            metrics: Metrics::default(),
            clock: clock.clone(),
        };
        let limited = Arc::new(Limited::new(engine.clone(), config.own.engine.limits, clock));
        let served = Served::new(info, limited, run_dirs);
        served.register(&deps.pool, &deps.clock).await.expect("register the engine");
        deps.engine.fill(served);
        let (creator, remover) = (
            Creator { deps: deps.clone(), holder: "bench".into() },
            Remover { deps: deps.clone(), holder: "bench".into() },
        );
        let sandboxes = Sandboxes { deps: deps.clone() };
        Self { deps, sandboxes, creator, remover, engine, db, redis, base, installation }
    }

    fn served(&self) -> &Served {
        self.deps.engine.get().expect("an engine")
    }

    async fn request(&self) -> (Owner, Sandbox) {
        let owner = Owner { account: AccountId::new(), session: SessionId::new() };
        let view =
            self.sandboxes.create(owner.account, owner.session, &Once::unkeyed()).await.expect("a sandbox");
        (owner, view.sandbox)
    }

    async fn find(&self, owner: Owner, id: SandboxId) -> Sandbox {
        self.deps.find(owner.account, id).await.expect("find a sandbox")
    }

    /// Requests and creates a session's sandbox.
    async fn running(&self) -> (Owner, Sandbox) {
        let (owner, wanted) = self.request().await;
        assert!(self.creator.create_next().await.expect("create it"));
        let sandbox = self.find(owner, wanted.id).await;
        assert_eq!(sandbox.state, State::Running, "{sandbox:?}");
        (owner, sandbox)
    }

    async fn remove(&self, owner: Owner, id: SandboxId) {
        self.sandboxes.delete(owner.account, id, "bench", &Once::unkeyed()).await.expect("delete");
        let epoch = self.find(owner, id).await.epoch;
        self.remover.remove(id, epoch).await.expect("remove");
    }

    /// Builds the specification of a container of the configured shape.
    async fn spec(&self) -> ContainerSpec {
        let identity = Identity {
            installation: self.installation.0.clone(),
            engine: self.served().info.id.clone(),
            sandbox: SandboxId::new(),
            generation: 2,
        };
        let run_dirs = &self.served().run_dirs;
        let mounts = MountSources {
            guest: self.deps.settings.guest.clone(),
            run_dir: run_dirs.path(&run_dirs.make().expect("a run directory")),
            volume: format!("steward-bench-{}", identity.sandbox),
        };
        let shape = &self.deps.settings.shape;
        let Observed::Present(image) = self.engine.image(&shape.image).await else { panic!("no image") };
        ContainerSpec::of(&identity, shape, &image, &mounts, self.deps.clock.now())
    }

    /// Creates and starts a container on the engine alone, and measures the time.
    async fn raw(&self) -> (Duration, ContainerId) {
        let spec = self.spec().await;
        let began = Instant::now();
        let id = self.engine.create(&spec).await.expect("create");
        self.engine.start(&id).await.expect("start");
        (began.elapsed(), id)
    }

    async fn remove_raw(&self, id: &ContainerId) {
        self.engine.remove(Handle::Id(id)).await.expect("remove");
    }

    async fn end(self) {
        self.deps.lifecycle.stop();
        self.deps.lifecycle.hard().cancel();
        drop((self.db, self.redis, self.base, self.installation));
    }
}

/// The shipped configuration, with values for the keys without a default.
fn config(base: &tempfile::TempDir, installation: &Installation) -> Config {
    let file = base.path().join("sandbox.toml");
    let text = format!(
        "installation = '{}'\nguest = '{}'\nrun_dir = '{}'\npg.url = 'postgres://unused'\n\
         redis.url = 'redis://unused'\nshape.image = '{}'\npool.size = {}\n",
        installation.0,
        guest_program().display(),
        base.path().join("run").display(),
        sandbox_image(),
        ROUNDS,
    );
    std::fs::write(&file, text).expect("write a configuration");
    Config::load(Some(&file)).expect("a configuration")
}

/// Prints one line. Returns whether `ours` took at most the share `floor` of the time of `bare`.
fn line(what: &str, ours: &mut [f64], bare: (&str, &mut [f64]), floor: f64) -> bool {
    compare(what, ours, bare, Floor::AtMost(floor), milliseconds)
}

async fn exec(ground: &Ground) -> bool {
    let execs = Execs { deps: ground.deps.clone() };
    let (owner, sandbox) = ground.running().await;
    let id = sandbox.container.as_ref().and_then(|known| known.id.clone()).expect("a container");
    let call = || {
        Call::Command(Command {
            argv: vec!["/bin/true".to_owned()],
            stdin: Bytes::new(),
            cwd: String::new(),
            env: BTreeMap::new(),
            timeout: Duration::from_secs(60),
        })
    };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..EXECS {
            let key = Key::given_or_new(String::new());
            let record = execs.call(owner.account, sandbox.id, key, call()).await.expect("exec");
            assert!(
                record.state == ExecState::Finished && record.outcome.is_some_and(|end| end.exit_code == 0)
            );
        }
        ours.push((began.elapsed() / EXECS).as_secs_f64());
        let began = Instant::now();
        for _ in 0..EXECS {
            let mut docker = Process::new("docker");
            docker.args(["--host", &docker_host(), "exec", &id, "/bin/true"]).stdin(Stdio::null());
            assert!(docker.status().expect("docker exec").success());
        }
        bare.push((began.elapsed() / EXECS).as_secs_f64());
    }
    ground.remove(owner, sandbox.id).await;
    line("exec through the guest", &mut ours, ("docker exec", &mut bare), 1.0 / 10.0)
}

async fn claim(ground: &Ground) -> bool {
    let name = format!("sandbox.pool/{}", ground.served().info.id);
    let lease = Duration::from_secs(30);
    let deps = &ground.deps;
    let singleton = Singleton::new(name, lease, &ground.redis.redis(), &deps.pool, &deps.lifecycle);
    let mut lease = PassLease { singleton, held: None };
    pool::pass(deps, &HostLevel::default(), &mut lease).await.expect("fill the pool");
    while ground.creator.create_next().await.expect("create a warm sandbox") {}
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let (owner, claimed) = ground.request().await;
        ours.push(began.elapsed().as_secs_f64());
        assert!(claimed.warm && claimed.state == State::Running, "{claimed:?}");
        ground.remove(owner, claimed.id).await;
        let (took, id) = ground.raw().await;
        bare.push(took.as_secs_f64());
        ground.remove_raw(&id).await;
    }
    line("warm claim", &mut ours, ("raw create and start", &mut bare), 1.0 / 30.0)
}

async fn cold(ground: &Ground) -> bool {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut served, mut raw) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..CREATES {
            let began = Instant::now();
            let (owner, sandbox) = ground.running().await;
            served += began.elapsed();
            ground.remove(owner, sandbox.id).await;
            let (took, id) = ground.raw().await;
            raw += took;
            ground.remove_raw(&id).await;
        }
        ours.push((served / CREATES).as_secs_f64());
        bare.push((raw / CREATES).as_secs_f64());
    }
    line("cold create", &mut ours, ("raw create and start", &mut bare), 1.1)
}
