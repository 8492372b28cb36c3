//! The Docker engine: the user's own if it answers, otherwise a private one with its data in the home.
//!
//! This crate makes a few calls (ping, list, stop, remove) as plain HTTP/1.0 over the engine's socket; every
//! API version supports them. sandbox-svc makes every other call.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{home::Home, process::Daemon};

/// Label of sandboxes and their volumes; its value names the plane that made them.
pub const INSTALLATION_LABEL: &str = "steward.installation";

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Maximum bytes in the path of a Unix socket, without the closing zero byte.
const MAX_SOCKET_PATH: usize = 107;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before each round of removals. The later rounds wait for removals that another process has started.
const REMOVAL_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Signals that stop a private engine, each with the time to wait for its effect.
pub const STOP: &[(Signal, Duration)] =
    &[(Signal::TERM, Duration::from_secs(20)), (Signal::KILL, Duration::from_secs(5))];

/// The address of an engine, for calls to it.
#[derive(Debug, Clone)]
pub struct Engine {
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// Name without Docker's leading slash.
    pub name: String,
    /// Docker's word: `created`, `running`, `paused`, `exited`, …
    pub state: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// Returns an engine that answers: the one at DOCKER_HOST or at the default socket. Otherwise starts a
/// private one, and returns its process too.
///
/// # Errors
/// Fails if the engine at DOCKER_HOST does not answer, or if a private one is needed and this process does
/// not run as root.
pub(crate) async fn start(home: &Home) -> Result<(Engine, Option<Daemon>)> {
    if let Ok(host) = env::var("DOCKER_HOST") {
        let engine = Engine::at(host);
        engine
            .ping()
            .await
            .with_context(|| format!("DOCKER_HOST is {}, but no engine answers", engine.host))?;
        return Ok((engine, None));
    }
    let system = Engine::at(format!("unix://{DEFAULT_SOCKET}"));
    if system.ping().await.is_ok() {
        return Ok((system, None));
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "no Docker engine answers at {DEFAULT_SOCKET}. Start one (sudo systemctl start docker), join its \
             group (sudo usermod -aG docker $USER), or set DOCKER_HOST"
        );
    }
    let (engine, daemon) = start_private(home).await?;
    Ok((engine, Some(daemon)))
}

/// Starts a private engine, even if another engine answers. This process must run as root.
pub async fn start_private(home: &Home) -> Result<(Engine, Daemon)> {
    let socket = socket_path(home)?;
    let private = Engine::at(format!("unix://{}", socket.display()));
    let mut daemon = Daemon::start(home, "dockerd", command(home, &socket)?, "")?;
    let ready = async || private.ping().await.is_ok();
    if let Err(error) = daemon.until_ready(Duration::from_secs(60), ready).await {
        daemon.stop(STOP).await?;
        return Err(error);
    }
    Ok((private, daemon))
}

fn command(home: &Home, socket: &Path) -> Result<Command> {
    let state = home.directory("docker")?;
    let mut command = Command::new("dockerd");
    command
        .arg("--data-root")
        .arg(state.join("data"))
        .arg("--exec-root")
        .arg(state.join("exec"))
        .arg("--pidfile")
        .arg(state.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        // Sandboxes have no network, so the engine need not change the host's packet filter.
        .args(["--iptables=false", "--ip6tables=false"]);
    Ok(command)
}

fn socket_path(home: &Home) -> Result<PathBuf> {
    let path = home.directory("docker")?.join("docker.sock");
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        bail!("{} is too long for a socket: set STEWARD_HOME to a shorter directory", path.display());
    }
    Ok(path)
}

impl Engine {
    /// Returns the engine at a `unix://` or `tcp://` address.
    pub fn at(host: String) -> Self {
        Self { host }
    }

    /// Returns the address, in the form of `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        self.call("GET", "/_ping").await.map(drop)
    }

    /// Lists the containers with a label (`key` or `key=value`), running or not.
    pub async fn containers(&self, label: &str) -> Result<Vec<Container>> {
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", escape(&filters));
        let listing: Vec<Value> = serde_json::from_str(&self.call("GET", &path).await?)?;
        listing.iter().map(container).collect()
    }

    /// Stops a container. A stopped or missing container is not an error.
    pub async fn stop(&self, id: &str) -> Result<()> {
        self.call("POST", &format!("/containers/{id}/stop?t=1")).await.map(drop)
    }

    /// Removes a container with its anonymous volumes. A missing container is not an error.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1")).await.map(drop)
    }

    /// Lists the volumes with a label (`key` or `key=value`).
    pub async fn volumes(&self, label: &str) -> Result<Vec<Volume>> {
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let path = format!("/volumes?filters={}", escape(&filters));
        let listing: Value = serde_json::from_str(&self.call("GET", &path).await?)?;
        // Without volumes the engine writes null.
        listing["Volumes"].as_array().into_iter().flatten().map(volume).collect()
    }

    /// Removes a volume. A missing volume, or one that a container uses, is not an error.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/volumes/{name}")).await.map(drop)
    }

    /// Removes every container and volume for which `selected` accepts the value of [`INSTALLATION_LABEL`].
    /// Returns the number of containers and volumes.
    ///
    /// # Errors
    /// Fails if some are left after the last round.
    pub async fn remove_installations(&self, selected: impl Fn(&str) -> bool) -> Result<usize> {
        let is_selected = |labels: &BTreeMap<String, String>| {
            labels.get(INSTALLATION_LABEL).is_some_and(|installation| selected(installation))
        };
        let mut removed = BTreeSet::new();
        let mut pauses = REMOVAL_PAUSES.into_iter();
        loop {
            let mut containers = self.containers(INSTALLATION_LABEL).await?;
            let mut volumes = self.volumes(INSTALLATION_LABEL).await?;
            containers.retain(|container| is_selected(&container.labels));
            volumes.retain(|volume| is_selected(&volume.labels));
            let left =
                containers.iter().map(|c| c.name.clone()).chain(volumes.iter().map(|v| v.name.clone()));
            let left: Vec<_> = left.collect();
            if left.is_empty() {
                return Ok(removed.len());
            }
            let Some(pause) = pauses.next() else { bail!("the engine still has {}", left.join(", ")) };
            tokio::time::sleep(pause).await;
            removed.extend(left);
            for container in &containers {
                self.remove(&container.id).await.with_context(|| format!("remove {}", container.name))?;
            }
            for volume in &volumes {
                self.remove_volume(&volume.name).await.with_context(|| format!("remove {}", volume.name))?;
            }
        }
    }

    async fn call(&self, method: &str, path: &str) -> Result<String> {
        let answer = async {
            match self.host.split_once("://") {
                Some(("unix", path_of_socket)) => {
                    exchange(UnixStream::connect(path_of_socket).await?, method, path).await
                }
                Some(("tcp", address)) => exchange(TcpStream::connect(address).await?, method, path).await,
                _ => bail!("{} is neither unix:// nor tcp://", self.host),
            }
        };
        let (status, body) = timeout(TIMEOUT, answer).await.context("wait for the engine")??;
        // 304 says that the container is stopped already. To a removal, 404 says that the object is gone, and
        // 409 that its removal is in progress or that a container uses the volume.
        match (method, status) {
            (_, 200..=299 | 304) | ("POST" | "DELETE", 404) | ("DELETE", 409) => Ok(body),
            _ => bail!("the Docker engine answered {status} to {method} {path}: {}", body.trim()),
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
) -> Result<(u16, String)> {
    // With HTTP/1.0 the body is not sent in chunks and ends with the connection.
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes).context("read the engine's answer")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the engine's answer has no body")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("the engine's answer has no status")?, body.to_owned()))
}

fn container(entry: &Value) -> Result<Container> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = || {
        Some(Container {
            id: text(&entry["Id"])?,
            name: text(&entry["Names"][0])?.trim_start_matches('/').to_owned(),
            state: text(&entry["State"])?,
            labels: serde_json::from_value(entry["Labels"].clone()).ok()?,
        })
    };
    read()
        .with_context(|| format!("the engine listed a container without id, name, state or labels: {entry}"))
}

fn volume(entry: &Value) -> Result<Volume> {
    let name = entry["Name"].as_str().map(str::to_owned);
    let labels = serde_json::from_value::<Option<BTreeMap<_, _>>>(entry["Labels"].clone())?;
    let volume = name.map(|name| Volume { name, labels: labels.unwrap_or_default() });
    volume.with_context(|| format!("the engine listed a volume without a name: {entry}"))
}

/// Percent-encodes every byte except unreserved characters.
fn escape(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_engine_is_an_error_not_an_empty_list() {
        let engine = Engine::at("unix:///nowhere/docker.sock".to_owned());
        engine.containers("steward.installation").await.unwrap_err();
        Engine::at("ssh://elsewhere".to_owned()).ping().await.unwrap_err();
    }

    #[test]
    fn filters_are_escaped_for_a_query() {
        assert_eq!(escape(r#"{"label":["a=b"]}"#), "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
    }
}
