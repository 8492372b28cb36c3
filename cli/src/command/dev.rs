//! `steward dev`: runs the whole plane on this machine until Ctrl-C.
//!
//! At the end it stops everything that it started: services, then sandboxes, then servers. Data stays for the
//! next start.

pub(crate) mod sandboxes;
mod screen;
mod supervise;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use registry_svc::operator::Operator;
use secrecy::{ExposeSecret, SecretString};
use steward_stack::{
    Engine, Home, Stack, StopRequests, home::read_if_exists, ports, process::end_leftover, terminal::Stages,
};
use svc_core::data::pg::{PgConfig, Pool};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use self::supervise::Supervisor;
use crate::{
    api::{ADMIN_TOKEN_FILE, TOKEN_FILE, URL_FILE},
    plane::{
        Overrides, Plane, Servers, Service,
        database::{self, Database},
    },
    traces::{Receiver, Traces},
};

/// Maximum time from the start of the services until every one is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Run the whole plane on this machine until Ctrl-C.
///
/// Postgres, Redis and a Docker engine are started unless STEWARD_DATABASE_URL, STEWARD_REDIS_URL or
/// DOCKER_HOST name yours. `make dev` builds what this needs and calls it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port of the public API.
    #[arg(long, env = "STEWARD_PORT", default_value_t = 8080)]
    port: u16,
    /// The static guest program that is mounted into sandboxes.
    #[arg(long, env = "STEWARD_GUEST")]
    guest: PathBuf,
    /// The image that sandboxes start from; by default Steward's own, which is built if it does not exist.
    #[arg(long, env = "STEWARD_IMAGE")]
    image: Option<String>,
    /// Seconds since 1970 at which the start began, for the times that stages show.
    #[arg(long, env = "STEWARD_STARTED", hide = true)]
    started: Option<f64>,
}

/// Runs the plane until SIGINT or SIGTERM, or until one of its processes cannot run.
pub(crate) async fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let mut stops = StopRequests::listen()?;
    let stages = Stages::since(since(args.started));
    let home = Home::open(root)?;
    end_leftovers(&home).await?;
    if !ports::is_free(args.port) {
        let holder = ports::holder(args.port)
            .map_or("a process of another user".to_owned(), |holder| holder.to_string());
        bail!("port {} is taken by {holder}: stop it, or give --port", args.port);
    }
    let stack = tokio::select! {
        stack = Stack::up(&home, stages) => stack?,
        _ = stops.next() => {
            Stack::end_leftovers(&home, stages).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let ended = on_stack(&home, args, &stack, stages, &mut stops).await;
    let sandboxes = sandboxes::stop(&home, &stack.engine).await;
    let down = stack.down().await;
    ended.and(sandboxes).and(down)?;
    stages.report(
        "stopped",
        format_args!("data stays in {}; `make clean` removes it", home.root().display()),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the services on the servers of `stack`.
async fn on_stack(
    home: &Home,
    args: &Args,
    stack: &Stack,
    stages: Stages,
    stops: &mut StopRequests,
) -> Result<()> {
    if stack.engine_is_yours() {
        sandboxes::record_engine(home, &stack.engine)?;
    }
    let traces = Traces::at(home.directory("traces")?);
    traces.prune()?;
    let receiver = Receiver::bind(home.port("otlp")?, traces).await?;
    let prepared = async {
        let image = image(args, &stack.engine, stages).await?;
        let servers = Servers {
            database: Database::at(&stack.database_url, database::NAME)?,
            redis_url: stack.redis_url.clone(),
            docker_host: stack.engine.host().to_owned(),
            otlp_url: env::var("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_else(|_| receiver.url()),
            guest: args.guest.canonicalize().with_context(|| format!("find {}", args.guest.display()))?,
            image,
            installation: sandboxes::installation(home)?,
        };
        servers.database.init().await?;
        servers.database.migrate().await?;
        ensure_tokens(home, &servers.database).await?;
        stages.report("database", "schemas are up to date")?;
        Plane::lay_out(home, &Service::ALL, args.port, &servers, &Overrides::default())
    };
    let plane = tokio::select! {
        plane = prepared => plane?,
        _ = stops.next() => return Ok(()),
    };
    plane.layout().write(home.root())?;

    let mut supervisor = Supervisor::new(home)?;
    let program = env::current_exe().context("find this program")?;
    for process in &plane.processes {
        supervisor.keep(supervise::Spec {
            name: process.service.name(),
            program: program.clone(),
            arguments: process.arguments(true).into_iter().map(Into::into).collect(),
            environment: Vec::new(),
        });
    }
    let closing = CancellationToken::new();
    let receiving = receiver.run(closing.clone());
    let lived = async {
        let lived = live(home, &plane, stages, &mut supervisor, stops).await;
        let hurried = async {
            let _again = stops.next().await;
        };
        let stopped = supervisor.stop(hurried).await;
        closing.cancel();
        lived.and(stopped)
    };
    let (received, lived) = tokio::join!(receiving, lived);
    lived.and(received)
}

/// Waits until the services are ready, shows the screen, then waits for a stop request or a failure.
async fn live(
    home: &Home,
    plane: &Plane,
    stages: Stages,
    supervisor: &mut Supervisor,
    stops: &mut StopRequests,
) -> Result<()> {
    let opened = async {
        plane.until_ready(READY_TIMEOUT).await?;
        stages.report("services", "all are ready")?;
        let url = plane.url().context("the plane has no gateway")?;
        std::fs::write(home.path(URL_FILE), &url)?;
        screen::show(home, &url)
    };
    tokio::select! {
        opened = opened => opened?,
        failure = supervisor.failure() => return Err(failure),
        _ = stops.next() => return Ok(()),
    }
    tokio::select! {
        failure = supervisor.failure() => Err(failure),
        _ = stops.next() => Ok(()),
    }
}

/// Makes an account with a token, and an operator's token. Keeps both tokens of an earlier start if the
/// account's token is still valid and the home has both files.
async fn ensure_tokens(home: &Home, database: &Database) -> Result<()> {
    let config = PgConfig::new(SecretString::from(database.run_url(Service::Registry)?));
    let pool = Pool::connect(&config).await?;
    let operator = Operator::new(pool.clone());
    let known = read_if_exists(&home.path(TOKEN_FILE))?.map(|token| SecretString::from(token.trim()));
    let issued = operator.ensure_account_and_token("dev", known.as_ref()).await?;
    let is_new = known.is_none_or(|known| known.expose_secret() != issued.secret.expose_secret());
    if is_new || !home.path(ADMIN_TOKEN_FILE).is_file() {
        // If the account's token is new, the database may be new too, and then an operator's token of an
        // older one is not valid. The account's token is written last: if a start ends between the two
        // writes, the next one writes both.
        let admin = operator.create_admin_token("steward dev").await?;
        home.write_secret(ADMIN_TOKEN_FILE, admin.secret.expose_secret())?;
        home.write_secret(TOKEN_FILE, issued.secret.expose_secret())?;
    }
    pool.close().await;
    Ok(())
}

/// Returns the image that `--image` names. Without it, runs `deploy/sandbox/build-image.sh` and returns the
/// image that the script prints.
async fn image(args: &Args, engine: &Engine, stages: Stages) -> Result<String> {
    if let Some(image) = &args.image {
        return Ok(image.clone());
    }
    // Leaves standard error to the terminal, so that the script's progress shows; `Command::output` would
    // capture it.
    let build = Command::new("deploy/sandbox/build-image.sh")
        .env("DOCKER_HOST", engine.host())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("run deploy/sandbox/build-image.sh (run `steward dev` in a checkout, or give --image)")?;
    let output = build.wait_with_output().await?;
    if !output.status.success() {
        bail!("the sandbox image could not be built (see above)");
    }
    let image = String::from_utf8(output.stdout)?.trim().to_owned();
    stages.report("image", &image)?;
    Ok(image)
}

/// Stops services that an earlier `steward dev` left running when it was killed.
pub(crate) async fn end_leftovers(home: &Home) -> Result<()> {
    for service in Service::ALL {
        end_leftover(&home.path(&format!("run/{service}.pid")), supervise::STOP).await?;
    }
    Ok(())
}

fn since(started: Option<f64>) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = started.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(now);
    now.saturating_sub(started)
}
