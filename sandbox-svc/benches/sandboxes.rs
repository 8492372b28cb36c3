//! Sandboxes against the bare engine, on real Docker, Postgres and Redis.
//!
//! * A command through journal and guest, beside `docker exec` of the same command in the same container.
//! * A claim from the warm pool, beside creating and starting such a container.
//! * A cold create from the wish to the guest's answer, through queue, lease and rows, beside creating and starting
//!   a container with the same configuration and not asking whether anything answers in it.
//!
//! A miss beyond the noise fails.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark may fail")]

use std::{
    collections::BTreeMap,
    process::{Command as Process, ExitCode, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use sandbox_svc::{
    Config, MIGRATOR,
    app::{Context, Served, Settings, Shared, execs, lifecycle, provision, removal},
    domain::{
        exec::{Call, Command, ExecState, Key},
        sandbox::{Owner, Sandbox, State},
        spec::{ContainerSpec, Identity, Places},
    },
    engine::{ContainerEngine, ContainerId, Handle, Observed, limiter::Limited},
    run_dirs::RunDirectories,
    store::engines,
    testing::{Installation, docker, docker_host, guest_program, sandbox_image},
    worker::{Kept, creator::make_next, host::HostLevel, pool},
};
use svc_core::{
    data::{lease::Singleton, pg::Tx, wake::Wake},
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

/// Everything the use cases need, and the engine itself beside it.
struct Ground {
    ctx: Shared,
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
        let run_dirs = RunDirectories::open(&config.run_dir).expect("run directories");
        let ctx = Arc::new(Context {
            pool: db.pool("sandbox"),
            wake: Wake::start(&redis.redis(), &lifecycle),
            lifecycle,
            settings: Settings {
                installation: config.installation,
                guest: config.guest,
                shape: config.shape,
                create: config.create,
                lifetimes: config.lifetimes,
                overcommit: config.host.overcommit,
            },
            served: OnceLock::new(),
            clock: clock.clone(),
        });
        let mut tx = Tx::system(&ctx.pool).await.expect("a transaction");
        let run_dir = run_dirs.base().display().to_string();
        assert!(engines::see(&mut tx, &info, &run_dir, ctx.now()).await.expect("see the engine"));
        tx.commit().await.expect("commit");
        let limited = Arc::new(Limited::new(engine.clone(), config.engine.limits, clock));
        ctx.served.get_or_init(|| Served::new(info, limited, run_dirs));
        Self { ctx, engine, db, redis, base, installation }
    }

    fn served(&self) -> &Served {
        self.ctx.served().expect("an engine")
    }

    async fn wish(&self) -> (Owner, Sandbox) {
        let owner = Owner { account: AccountId::new(), session: SessionId::new() };
        let view = provision::create(&self.ctx, owner.account, owner.session).await.expect("a sandbox");
        (owner, view.sandbox)
    }

    async fn find(&self, owner: Owner, id: SandboxId) -> Sandbox {
        lifecycle::find(&self.ctx, owner.account, id).await.expect("find a sandbox")
    }

    /// A session's sandbox that runs.
    async fn running(&self) -> (Owner, Sandbox) {
        let (owner, wanted) = self.wish().await;
        assert!(make_next(&self.ctx, self.served(), "bench").await.expect("make it"));
        let sandbox = self.find(owner, wanted.id).await;
        assert_eq!(sandbox.state, State::Running, "{sandbox:?}");
        (owner, sandbox)
    }

    async fn remove(&self, owner: Owner, id: SandboxId) {
        lifecycle::delete(&self.ctx, owner.account, id, "bench").await.expect("delete");
        let epoch = self.find(owner, id).await.epoch;
        removal::remove(&self.ctx, self.served(), id, epoch, "bench").await.expect("remove");
    }

    /// The container that the service would make for some sandbox of the configured shape.
    async fn spec(&self) -> ContainerSpec {
        let identity = Identity {
            installation: self.installation.0.clone(),
            engine: self.served().info.id.clone(),
            sandbox: SandboxId::new(),
            generation: 2,
        };
        let run_dirs = &self.served().run_dirs;
        let places = Places {
            guest: self.ctx.settings.guest.clone(),
            run_dir: run_dirs.path(&run_dirs.make().expect("a run directory")),
            volume: format!("steward-bench-{}", identity.sandbox),
        };
        let shape = &self.ctx.settings.shape;
        let Observed::Present(image) = self.engine.image(&shape.image).await else { panic!("no image") };
        ContainerSpec::of(&identity, shape, &image, &places, self.ctx.now())
    }

    /// Creates and starts a container, as the engine does it and nothing else; the time that took.
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
        self.ctx.lifecycle.stop();
        self.ctx.lifecycle.hard().cancel();
        drop((self.db, self.redis, self.base, self.installation));
    }
}

/// The configuration as it is shipped, but for what has no default.
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

/// One line, and whether ours took at most the share `floor` of `bare`.
fn line(what: &str, ours: &mut [f64], bare: (&str, &mut [f64]), floor: f64) -> bool {
    compare(what, ours, bare, Floor::AtMost(floor), milliseconds)
}

async fn exec(ground: &Ground) -> bool {
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
            let key = Key::parse_or_new(String::new()).expect("a key");
            let record =
                execs::call(&ground.ctx, owner.account, sandbox.id, key, call()).await.expect("exec");
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
    let config = self::config(&ground.base, &ground.installation).pool;
    let name = format!("sandbox.pool/{}", ground.served().info.id);
    let lease = Duration::from_secs(30);
    let ctx = &ground.ctx;
    let mut kept = Kept::new(Singleton::new(name, lease, &ground.redis.redis(), &ctx.pool, &ctx.lifecycle));
    pool::pass(ctx, &config, &HostLevel::default(), &mut kept).await.expect("fill the pool");
    while make_next(ctx, ground.served(), "bench").await.expect("make a warm one") {}
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let (owner, claimed) = ground.wish().await;
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
