//! A plane of real processes: one child per service and replica, on a Postgres, a Redis and a Docker engine.
//!
//! Processes are the built `steward` program, exactly as it is shipped. Leases are short by configuration, so
//! that a takeover takes a second or two and not fifteen; [`Builder::production_times`] leaves them as they are.
//! Each cluster has a database and a Redis of its own; the servers named by the environment are used where
//! there are any (`steward stack exec`), private ones otherwise.

mod child;
mod wires;

use std::{
    env,
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use registry_svc::operator::Operator;
use secrecy::{ExposeSecret, SecretString};
use steward::{
    db::Database,
    plane::{Ground, Overrides, Plane, Process, Service},
    traces::{Receiver, Traces},
};
use steward_stack::{
    Daemon, Engine, Home, Stack,
    docker::INSTALLATION_LABEL,
    docker::{self, Container, Volume},
    exec::TEST_RUN,
    redis,
    terminal::Stages,
};
use svc_core::{
    data::pg::{PgConfig, Pool},
    id::new_id,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::child::Child;
pub use self::wires::Wires;
use crate::capture::{self, Collector};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a cluster is made of.
#[derive(Debug)]
pub struct Builder {
    services: Vec<Service>,
    overrides: Overrides,
    wired: bool,
    own_engine: bool,
    captured: bool,
}

impl Default for Builder {
    fn default() -> Self {
        let mut builder = Self {
            services: Service::ALL.to_vec(),
            overrides: Overrides::default(),
            wired: false,
            own_engine: false,
            captured: false,
        };
        for (service, settings) in SHORT_TIMES {
            builder = builder.settings(*service, settings);
        }
        builder
    }
}

/// One-second leases, and everything that waits for them.
const SHORT_TIMES: &[(Service, &str)] = &[
    (Service::Chat, "worker.lease_ttl = '1s'\nworker.renew_period = '300ms'\nworker.scan_period = '200ms'"),
    (
        Service::Sandbox,
        "create.lease = '2s'\ncreate.poll = '200ms'\nreconcile.period = '1s'\nreconcile.lease = '2s'",
    ),
    (Service::Purge, "worker.lease_ttl = '1s'\nworker.poll = '200ms'"),
];

impl Builder {
    /// Runs this many replicas of a service.
    #[must_use]
    pub fn replicas(mut self, service: Service, count: usize) -> Self {
        self.services.retain(|other| *other != service);
        // Before the gateway, which is told where they all are.
        self.services.splice(0..0, std::iter::repeat_n(service, count));
        self
    }

    /// Runs these services alone.
    #[must_use]
    pub fn only(mut self, services: &[Service]) -> Self {
        self.services = services.to_vec();
        self
    }

    /// Lays settings (TOML) over a service's configuration.
    #[must_use]
    pub fn settings(mut self, service: Service, toml: &str) -> Self {
        self.overrides = self.overrides.with(service, toml);
        self
    }

    /// Leaves every time at its default.
    #[must_use]
    pub fn production_times(mut self) -> Self {
        self.overrides = Overrides::default();
        self
    }

    /// Lets the services reach Postgres and Docker over [`Wires`] that can be cut.
    #[must_use]
    pub fn wired(mut self) -> Self {
        self.wired = true;
        self
    }

    /// Runs a Docker engine for this cluster alone, which can be stopped: it takes root.
    #[must_use]
    pub fn own_engine(mut self) -> Self {
        self.own_engine = true;
        self
    }

    /// Keeps all telemetry as it arrives, for [`Cluster::search`]; [`Cluster::traces`] stays empty.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.captured = true;
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> Cluster {
        Cluster::start(self).await
    }
}

/// A running plane. Call [`Cluster::stop`] at the end of a test: it checks that everything drains.
#[derive(Debug)]
pub struct Cluster {
    /// Base URL of the public door.
    pub url: String,
    /// The Docker engine.
    pub engine: Engine,
    /// The plan that the processes carry out.
    pub plane: Plane,
    /// Every span that arrived.
    pub traces: Traces,
    /// Its database.
    pub database: Database,
    /// Its Redis.
    pub redis_url: String,
    /// Where its telemetry goes.
    pub otlp_url: String,
    /// The operator's token.
    pub admin_token: String,
    wires: Option<Wires>,
    installation: String,
    children: Vec<Child>,
    redis: Option<Daemon>,
    /// The engine, if it is the cluster's own and runs.
    dockerd: Option<Daemon>,
    stack: Stack,
    background: JoinSet<anyhow::Result<()>>,
    closing: CancellationToken,
    // Last: everything above lives in it.
    home: ScratchHome,
}

#[derive(Debug)]
struct ScratchHome {
    home: Home,
    _directory: tempfile::TempDir,
}

impl Deref for ScratchHome {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Cluster {
    /// One process a service, with short times.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start(builder: Builder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = ScratchHome { home: Home::open(directory.path()).unwrap(), _directory: directory };
        let stack = Stack::up(&home, Stages::silent()).await.unwrap();
        let redis = redis::start(&home).await.unwrap();
        let (engine, dockerd) = if builder.own_engine {
            let (engine, dockerd) = docker::start_private(&home).await.unwrap();
            (engine, Some(dockerd))
        } else {
            (stack.engine.clone(), None)
        };
        let traces = Traces::at(home.directory("traces").unwrap());
        let closing = CancellationToken::new();
        let mut background = JoinSet::new();
        let otlp_url = if builder.captured {
            let collector = Collector::bind(home.directory(capture::DIRECTORY).unwrap()).await;
            let url = collector.url();
            background.spawn(collector.run(closing.clone()));
            url
        } else {
            let receiver = Receiver::bind(0, traces.clone()).await.unwrap();
            let url = receiver.url();
            background.spawn(receiver.run(closing.clone()));
            url
        };

        let run = env::var(TEST_RUN).unwrap_or_else(|_| format!("test-{}", std::process::id()));
        let id = new_id().simple().to_string();
        let installation = format!("{run}-{}", &id[id.len() - 8..]);
        let name = format!("steward_{id}");
        let database = Database::at(&stack.database_url, &name).unwrap();
        database.init().await.unwrap();
        database.migrate().await.unwrap();
        let admin_token = admin_token(&database).await;
        let wires = if builder.wired { Some(Wires::lay(&stack).await) } else { None };
        let (database_url, docker_host) = match &wires {
            Some(wires) => (wires.database_url(&stack), wires.docker_host()),
            None => (stack.database_url.clone(), engine.host().to_owned()),
        };
        let ground = Ground {
            database: Database::at(&database_url, &name).unwrap(),
            redis_url: redis.url.clone(),
            docker_host,
            otlp_url: otlp_url.clone(),
            guest: guest(),
            image: image(engine.host()),
            installation: installation.clone(),
        };
        let port = home.port("gateway").unwrap();
        let plane = Plane::lay_out(&home, &builder.services, port, &ground, &builder.overrides).unwrap();
        let children = plane.processes.iter().map(|process| Child::start(process, &home)).collect();
        let mut cluster = Self {
            url: plane.url().unwrap(),
            engine,
            traces,
            database,
            redis_url: redis.url,
            otlp_url,
            admin_token,
            wires,
            installation,
            children,
            redis: Some(redis.daemon),
            dockerd,
            stack,
            background,
            closing,
            plane,
            home,
        };
        let problem = tokio::select! {
            ready = cluster.plane.until_ready(READY_WITHIN) => ready.err().map(|error| format!("{error:#}")),
            name = first_end(&mut cluster.children) => Some(format!("{name} ended at its start")),
        };
        if let Some(problem) = problem {
            panic!("{problem}\n{}", cluster.logs());
        }
        cluster
    }

    /// Where its keys, configuration and logs are.
    pub fn home(&self) -> &Path {
        self.home.root()
    }

    /// The label's value that tells its containers and volumes from others.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// One process, by name: "chat", "chat-2".
    pub fn process(&mut self, name: &str) -> &mut Child {
        self.children.iter_mut().find(|child| child.name() == name).unwrap()
    }

    /// Containers of this cluster's sandboxes.
    pub async fn containers(&self) -> Vec<Container> {
        self.engine.containers(&self.label()).await.unwrap()
    }

    /// Volumes of this cluster's sandboxes.
    pub async fn volumes(&self) -> Vec<Volume> {
        self.engine.volumes(&self.label()).await.unwrap()
    }

    /// The label that all its containers and volumes have.
    pub fn label(&self) -> String {
        format!("{INSTALLATION_LABEL}={}", self.installation)
    }

    /// What every process logged, for the message of a failure.
    pub fn logs(&self) -> String {
        self.children.iter().map(Child::log).collect::<Vec<_>>().join("\n")
    }

    /// What the services reach Postgres and Docker over.
    ///
    /// # Panics
    /// Unless the cluster was built [`Builder::wired`].
    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().unwrap()
    }

    /// Ends Redis as a crash does.
    pub async fn lose_redis(&mut self) {
        let redis = self.redis.take().unwrap();
        redis.stop(&[(rustix::process::Signal::KILL, Duration::from_secs(5))]).await.unwrap();
    }

    /// Brings Redis back, empty, where it was.
    pub async fn regain_redis(&mut self) {
        assert!(self.redis.is_none());
        self.redis = Some(redis::start(&self.home).await.unwrap().daemon);
    }

    /// Stops the engine as its package does at an upgrade: every container ends with it.
    ///
    /// # Panics
    /// Unless the cluster was built with [`Builder::own_engine`].
    pub async fn stop_engine(&mut self) {
        self.dockerd.take().unwrap().stop(docker::STOP).await.unwrap();
    }

    /// Starts the engine again, on what it knew.
    pub async fn start_engine(&mut self) {
        assert!(self.dockerd.is_none());
        self.dockerd = Some(docker::start_private(&self.home).await.unwrap().1);
    }

    /// Stops whatever still runs, each of which sends its last telemetry; the servers stay.
    ///
    /// # Panics
    /// If a process does not end well.
    pub async fn stop_processes(&mut self) {
        // The gateway first: it is listed last.
        for child in self.children.iter_mut().rev().filter(|child| child.is_running()) {
            let status = child.terminate().await;
            assert!(status.success(), "{}: {status}\n{}", child.name(), child.log());
        }
    }

    /// Stops every process and checks that each drained in time and ended well; then removes what they made.
    pub async fn stop(mut self) {
        for child in self.children.iter_mut().filter(|child| child.is_running()) {
            child.signal(rustix::process::Signal::TERM);
        }
        let mut failures = Vec::new();
        for child in &mut self.children {
            if let Err(problem) = child.end().await {
                failures.push(problem);
            }
        }
        self.closing.cancel();
        while let Some(ended) = self.background.join_next().await {
            ended.unwrap().unwrap();
        }
        for container in self.containers().await {
            self.engine.remove(&container.id).await.unwrap();
        }
        for volume in self.volumes().await {
            self.engine.remove_volume(&volume.name).await.unwrap();
        }
        if let Some(redis) = self.redis.take() {
            redis.stop(redis::STOP).await.unwrap();
        }
        if let Some(dockerd) = self.dockerd.take() {
            dockerd.stop(docker::STOP).await.unwrap();
        }
        self.stack.down().await.unwrap();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

/// Waits until one of the processes ends, which none should yet.
async fn first_end(children: &mut [Child]) -> String {
    loop {
        if let Some(child) =
            children.iter_mut().find_map(|child| child.has_ended().then(|| child.name().to_owned()))
        {
            return child;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn admin_token(database: &Database) -> String {
    let config = PgConfig::new(SecretString::from(database.run_url(Service::Registry).unwrap()));
    let pool = Pool::connect(&config).await.unwrap();
    let issued = Operator::new(pool.clone()).create_admin_token("suite").await.unwrap();
    pool.close().await;
    issued.secret.expose_secret().to_owned()
}

/// The built program: beside the tests' own directory.
pub fn program() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("steward");
    assert!(program.is_file(), "{} is not built: cargo build -p steward", program.display());
    program
}

/// The static program that is mounted into sandboxes.
pub fn guest() -> PathBuf {
    match env::var_os("STEWARD_GUEST") {
        Some(guest) => guest.into(),
        None => script("build-guest.sh", &[], &[]).into(),
    }
}

/// A small image for sandboxes.
pub fn image(docker_host: &str) -> String {
    match env::var("STEWARD_IMAGE") {
        Ok(image) => image,
        Err(_) if docker_host.is_empty() => script("build-image.sh", &["busybox"], &[]),
        Err(_) => script("build-image.sh", &["busybox"], &[("DOCKER_HOST", docker_host)]),
    }
}

/// What a script of `deploy/sandbox` prints.
fn script(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let path = repository().join("deploy/sandbox").join(name);
    let mut command = std::process::Command::new(&path);
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// How a process of the plane is run here.
fn command(process: &Process) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program());
    command.args(process.arguments(true));
    // Spans leave soon, so that a process that is killed takes few along.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "500");
    command
}
