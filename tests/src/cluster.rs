//! A plane of real processes: one child process for each replica, on Postgres, Redis and a Docker engine.
//!
//! The processes run the built program `steward`, as a release does. Leases are short by configuration, so
//! that a takeover takes one or two seconds instead of fifteen; [`Builder::production_times`] keeps the
//! default times. Each cluster has its own database and Redis. It uses the Postgres and the Docker engine
//! that the environment names, if any (`steward stack exec`), and starts private ones otherwise.

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
    plane::{Overrides, Plane, Process, Servers, Service, database::Database},
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
use crate::capture;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Describes a cluster before it starts.
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

/// Leases of one or two seconds, and short periods for the work that waits for their expiry.
const SHORT_TIMES: &[(Service, &str)] = &[
    (Service::Chat, "worker.lease_ttl = '1s'\nworker.renew_period = '300ms'\nworker.scan_period = '200ms'"),
    (
        Service::Sandbox,
        "create.lease = '2s'\ncreate.poll = '200ms'\nreconcile.period = '1s'\nreconcile.lease = '2s'",
    ),
    (Service::Purge, "worker.lease_ttl = '1s'\nworker.poll = '200ms'"),
];

impl Builder {
    /// Runs `count` replicas of a service.
    #[must_use]
    pub fn replicas(mut self, service: Service, count: usize) -> Self {
        self.services.retain(|other| *other != service);
        // Inserts the replicas at the front, so that the gateway stays last if `service` is another one:
        // [`Cluster::stop_processes`] expects it there.
        self.services.splice(0..0, std::iter::repeat_n(service, count));
        self
    }

    /// Runs only these services.
    #[must_use]
    pub fn only(mut self, services: &[Service]) -> Self {
        self.services = services.to_vec();
        self
    }

    /// Merges settings (TOML) into a service's configuration.
    #[must_use]
    pub fn settings(mut self, service: Service, toml: &str) -> Self {
        self.overrides = self.overrides.with(service, toml);
        self
    }

    /// Keeps every time at its default.
    #[must_use]
    pub fn production_times(mut self) -> Self {
        self.overrides = Overrides::default();
        self
    }

    /// Routes the services' connections to Postgres and Docker through [`Wires`], which a test can cut.
    #[must_use]
    pub fn wired(mut self) -> Self {
        self.wired = true;
        self
    }

    /// Runs a Docker engine for this cluster alone, which a test can stop. Needs root.
    #[must_use]
    pub fn own_engine(mut self) -> Self {
        self.own_engine = true;
        self
    }

    /// Keeps all telemetry as received, for [`Cluster::search`]; [`Cluster::traces`] stays empty.
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

/// A running plane. Call [`Cluster::stop`] at the end of a test; it checks that every process drains.
#[derive(Debug)]
pub struct Cluster {
    /// Base URL of the public API.
    pub url: String,
    pub engine: Engine,
    /// The processes with their addresses and configuration.
    pub plane: Plane,
    /// Every span that the plane's receiver has stored.
    pub traces: Traces,
    pub database: Database,
    pub redis_url: String,
    /// URL to which the processes send telemetry.
    pub otlp_url: String,
    pub admin_token: String,
    wires: Option<Wires>,
    installation: String,
    children: Vec<Child>,
    redis: Option<Daemon>,
    /// The cluster's own Docker engine, while it runs.
    dockerd: Option<Daemon>,
    stack: Stack,
    background: JoinSet<anyhow::Result<()>>,
    closing: CancellationToken,
    // This field is last, so that its directory is removed last: the fields above use its files.
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
    /// Returns a builder with one process for each service and short times.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start(builder: Builder) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = ScratchHome { home: Home::open(directory.path()).unwrap(), _directory: directory };
        let stack = Stack::up(&home, Stages::silent()).await.unwrap();
        let (redis_url, redis) = redis::start(&home).await.unwrap();
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
            let files = capture::Files(home.directory(capture::DIRECTORY).unwrap());
            let receiver = Receiver::bind(0, files).await.unwrap();
            let url = receiver.url();
            background.spawn(receiver.run(closing.clone()));
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
        let servers = Servers {
            database: Database::at(&database_url, &name).unwrap(),
            redis_url: redis_url.clone(),
            docker_host,
            otlp_url: otlp_url.clone(),
            guest: guest(),
            image: image(engine.host()),
            installation: installation.clone(),
        };
        let port = home.port("gateway").unwrap();
        let plane = Plane::lay_out(&home, &builder.services, port, &servers, &builder.overrides).unwrap();
        let children = plane.processes.iter().map(|process| Child::start(process, &home)).collect();
        let mut cluster = Self {
            url: plane.url().unwrap(),
            engine,
            traces,
            database,
            redis_url,
            otlp_url,
            admin_token,
            wires,
            installation,
            children,
            redis: Some(redis),
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

    /// Returns the directory with the cluster's keys, configuration and logs.
    pub fn home(&self) -> &Path {
        self.home.root()
    }

    /// Returns the label value that marks the cluster's containers and volumes.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// Returns a process by its name, such as "chat" or "chat-2".
    pub fn process(&mut self, name: &str) -> &mut Child {
        self.children.iter_mut().find(|child| child.name() == name).unwrap()
    }

    /// Lists the containers of this cluster's sandboxes.
    pub async fn containers(&self) -> Vec<Container> {
        self.engine.containers(&self.label()).await.unwrap()
    }

    /// Lists the volumes of this cluster's sandboxes.
    pub async fn volumes(&self) -> Vec<Volume> {
        self.engine.volumes(&self.label()).await.unwrap()
    }

    /// Returns the label of all containers and volumes of the cluster, as `key=value`.
    pub fn label(&self) -> String {
        format!("{INSTALLATION_LABEL}={}", self.installation)
    }

    /// Returns the logs of all processes, for the message of a failure.
    pub fn logs(&self) -> String {
        self.children.iter().map(Child::log).collect::<Vec<_>>().join("\n")
    }

    /// Returns the proxies between the services and Postgres and Docker.
    ///
    /// # Panics
    /// Unless the cluster was built with [`Builder::wired`].
    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().unwrap()
    }

    /// Kills Redis. The plane keeps running.
    pub async fn lose_redis(&mut self) {
        let redis = self.redis.take().unwrap();
        redis.stop(&[(rustix::process::Signal::KILL, Duration::from_secs(5))]).await.unwrap();
    }

    /// Starts Redis again on the same port, empty.
    pub async fn regain_redis(&mut self) {
        assert!(self.redis.is_none());
        self.redis = Some(redis::start(&self.home).await.unwrap().1);
    }

    /// Stops the engine as a package upgrade does: every container ends with it.
    ///
    /// # Panics
    /// Unless the cluster was built with [`Builder::own_engine`].
    pub async fn stop_engine(&mut self) {
        self.dockerd.take().unwrap().stop(docker::STOP).await.unwrap();
    }

    /// Starts the engine again with its old data.
    pub async fn start_engine(&mut self) {
        assert!(self.dockerd.is_none());
        self.dockerd = Some(docker::start_private(&self.home).await.unwrap().1);
    }

    /// Stops every running process, so that each sends its last telemetry; the servers keep running.
    ///
    /// # Panics
    /// If a process exits with an error.
    pub async fn stop_processes(&mut self) {
        // Stops the gateway first, which is last in the list.
        for child in self.children.iter_mut().rev().filter(|child| child.is_running()) {
            let status = child.terminate().await;
            assert!(status.success(), "{}: {status}\n{}", child.name(), child.log());
        }
    }

    /// Stops every process, checks that each ended in time and with success, and removes their containers and
    /// volumes. Stops the cluster's own servers; a database in the user's own Postgres stays.
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

/// Waits until one of the processes ends, and returns its name. Used during the start, when no process may
/// end.
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

/// Returns the path of the built program, which is beside the directory of the test programs.
pub fn program() -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("steward");
    assert!(program.is_file(), "{} is not built: cargo build -p steward", program.display());
    program
}

/// Returns the path of the static guest program; builds the program if no variable names it.
pub fn guest() -> PathBuf {
    match env::var_os("STEWARD_GUEST") {
        Some(guest) => guest.into(),
        None => script("build-guest.sh", &[], &[]).into(),
    }
}

/// Builds a small image for sandboxes and returns its name.
pub fn image(docker_host: &str) -> String {
    match env::var("STEWARD_IMAGE") {
        Ok(image) => image,
        Err(_) if docker_host.is_empty() => script("build-image.sh", &["busybox"], &[]),
        Err(_) => script("build-image.sh", &["busybox"], &[("DOCKER_HOST", docker_host)]),
    }
}

/// Runs a script of `deploy/sandbox` and returns its output.
fn script(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let path = repository().join("deploy/sandbox").join(name);
    let mut command = std::process::Command::new(&path);
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the command that runs a process of the plane in tests.
fn command(process: &Process) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program());
    command.args(process.arguments(true));
    // Sends spans often, so that few are lost when a process is killed.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "500");
    command
}
