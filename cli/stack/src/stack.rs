//! The servers of a stack: Postgres, Redis and a Docker engine. A server that the environment names is used
//! as it is; otherwise the stack starts a private one and stops it at the end.

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
    /// Starts the servers that the environment does not name. If one cannot start, stops those that started.
    pub async fn up(home: &Home, stages: Stages) -> Result<Self> {
        Self::end_leftovers(home, stages).await?;
        let (postgres, redis, docker) = tokio::join!(postgres(home), redis(home), docker::start(home));
        let (mut addresses, mut owned, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let docker = docker.map(|(engine, daemon)| (engine.host().to_owned(), daemon));
        for (name, server, variable, signals) in [
            ("postgres", postgres, Some(DATABASE_URL), postgres::STOP),
            ("redis", redis, Some(REDIS_URL), redis::STOP),
            ("docker", docker, None, docker::STOP),
        ] {
            match server {
                Ok((address, daemon)) => {
                    stages.report(name, origin(daemon.as_ref(), variable.unwrap_or(&address)))?;
                    addresses.push(address);
                    owned.extend(daemon.map(|daemon| (daemon, signals)));
                }
                Err(error) => failures.push(error.context(name)),
            }
        }
        match <[String; 3]>::try_from(addresses) {
            Ok([database_url, redis_url, host]) => {
                Ok(Self { database_url, redis_url, engine: Engine::at(host), owned })
            }
            Err(_) => {
                failures.extend(stop_all(owned).await);
                report(&failures)
            }
        }
    }

    /// Stops servers that an earlier run or an interrupted start left running.
    pub async fn end_leftovers(home: &Home, stages: Stages) -> Result<()> {
        for (name, signals) in SERVERS {
            if let Some(pid) = process::end_leftover(&home.path(&format!("run/{name}.pid")), signals).await? {
                stages.report(name, format_args!("stopped process {pid} of an earlier run"))?;
            }
        }
        Ok(())
    }

    /// Returns whether the engine is the user's own. If it is, removing the home does not remove the
    /// sandboxes on it.
    pub fn engine_is_yours(&self) -> bool {
        self.owned.iter().all(|(daemon, _)| daemon.name() != DOCKERD)
    }

    /// Returns environment variables with the addresses of the servers.
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
        if failures.is_empty() { Ok(()) } else { report(&failures) }
    }
}

/// Joins several errors to one error with one line for each.
fn report<T>(errors: &[anyhow::Error]) -> Result<T> {
    bail!(errors.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n"))
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
        Err(_) => postgres::start(home).await.map(|(url, daemon)| (url, Some(daemon))),
    }
}

async fn redis(home: &Home) -> Result<(String, Option<Daemon>)> {
    match env::var(REDIS_URL) {
        Ok(url) => Ok((url, None)),
        Err(_) => redis::start(home).await.map(|(url, daemon)| (url, Some(daemon))),
    }
}

fn origin(daemon: Option<&Daemon>, given: &str) -> String {
    match daemon {
        Some(daemon) => format!("started, process {}", daemon.pid()),
        None => format!("using yours ({given})"),
    }
}
