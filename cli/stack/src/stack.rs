//! Postgres, Redis and a Docker engine: the user's own where the environment names them, private ones
//! otherwise. Private servers are stopped with the stack.

use std::{env, fs, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{
    docker::{self, Engine},
    home::Home,
    postgres,
    process::{self, Daemon},
    redis,
    terminal::Stages,
};

/// Variable with the URL of the user's own Postgres, with a role that may create databases and roles.
pub const DATABASE_URL: &str = "STEWARD_DATABASE_URL";
/// Variable with the URL of the user's own Redis.
pub(crate) const REDIS_URL: &str = "STEWARD_REDIS_URL";

const DOCKERD: &str = "dockerd";

const SERVERS: &[(&str, &[(Signal, Duration)])] =
    &[("postgres", postgres::STOP), ("redis", redis::STOP), (DOCKERD, docker::STOP)];

/// The three running servers.
#[derive(Debug)]
pub struct Stack {
    /// URL of Postgres, with a role that may create databases and roles.
    pub database_url: String,
    pub redis_url: String,
    pub engine: Engine,
    owned: Vec<(Daemon, &'static [(Signal, Duration)])>,
}

impl Stack {
    /// Starts the three servers. If one cannot start, the started ones are stopped.
    pub async fn up(home: &Home, stages: Stages) -> Result<Self> {
        Self::end_leftovers(home, stages).await?;
        let (postgres, redis, docker) = tokio::join!(postgres(home), redis(home), docker::start(home));
        let mut owned = Vec::new();
        let mut failures = Vec::new();
        let mut keep = |daemon: Option<Daemon>, signals| owned.extend(daemon.map(|daemon| (daemon, signals)));

        let mut database_url = String::new();
        match postgres {
            Ok((url, daemon)) => {
                stages.report("postgres", origin(daemon.as_ref(), DATABASE_URL))?;
                database_url = url;
                keep(daemon, postgres::STOP);
            }
            Err(error) => failures.push(error.context("Postgres")),
        }
        let mut redis_url = String::new();
        match redis {
            Ok((url, daemon)) => {
                stages.report("redis", origin(daemon.as_ref(), REDIS_URL))?;
                redis_url = url;
                keep(daemon, redis::STOP);
            }
            Err(error) => failures.push(error.context("Redis")),
        }
        let mut engine = None;
        match docker {
            Ok((answering, daemon)) => {
                stages.report("docker", origin(daemon.as_ref(), answering.host()))?;
                engine = Some(answering);
                keep(daemon, docker::STOP);
            }
            Err(error) => failures.push(error.context("Docker")),
        }

        match engine {
            Some(engine) if failures.is_empty() => Ok(Self { database_url, redis_url, engine, owned }),
            _ => {
                failures.extend(stop_all(owned).await);
                bail!(failures.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// Stops servers that an earlier run, or an interrupted start, left running.
    pub async fn end_leftovers(home: &Home, stages: Stages) -> Result<()> {
        for (name, signals) in SERVERS {
            if let Some(pid) = process::end_leftover(&home.path(&format!("run/{name}.pid")), signals).await? {
                stages.report(name, format_args!("stopped process {pid} of an earlier run"))?;
            }
        }
        Ok(())
    }

    /// Whether the engine is the user's own. Removing the home does not remove sandboxes from such an engine.
    pub fn engine_is_yours(&self) -> bool {
        self.owned.iter().all(|(daemon, _)| daemon.name() != DOCKERD)
    }

    /// Environment variables with the addresses of the servers.
    pub fn environment(&self) -> [(&'static str, &str); 3] {
        [
            (DATABASE_URL, &self.database_url),
            (REDIS_URL, &self.redis_url),
            ("DOCKER_HOST", self.engine.host()),
        ]
    }

    /// Stops the servers that [`Self::up`] started.
    pub async fn down(self) -> Result<()> {
        let failures = stop_all(self.owned).await;
        if failures.is_empty() {
            return Ok(());
        }
        bail!(failures.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n"))
    }
}

/// Stops leftover servers of a home and removes its database cluster. Keys, ports and the private engine's
/// images stay.
pub async fn wipe(home: &Home) -> Result<()> {
    Stack::end_leftovers(home, Stages::silent()).await?;
    let mut directories = home.elsewhere()?;
    directories.push(home.path("postgres"));
    for directory in directories.iter().filter(|directory| directory.is_dir()) {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}

async fn stop_all(owned: Vec<(Daemon, &'static [(Signal, Duration)])>) -> Vec<anyhow::Error> {
    let mut failures = Vec::new();
    for (daemon, signals) in owned.into_iter().rev() {
        failures.extend(daemon.stop(signals).await.err());
    }
    failures
}

async fn postgres(home: &Home) -> Result<(String, Option<Daemon>)> {
    match env::var(DATABASE_URL) {
        Ok(url) => Ok((url, None)),
        Err(_) => postgres::start(home).await.map(|postgres| (postgres.url, Some(postgres.daemon))),
    }
}

async fn redis(home: &Home) -> Result<(String, Option<Daemon>)> {
    match env::var(REDIS_URL) {
        Ok(url) => Ok((url, None)),
        Err(_) => redis::start(home).await.map(|redis| (redis.url, Some(redis.daemon))),
    }
}

fn origin(daemon: Option<&Daemon>, given: &str) -> String {
    match daemon {
        Some(daemon) => format!("started, process {}", daemon.pid()),
        None => format!("using yours ({given})"),
    }
}
