//! Docker through its API; no other file uses the crate bollard.
//!
//! Connects on first use and negotiates the API version then. If the daemon is down when this process starts,
//! calls fail until the daemon runs. The deadlines are those of [`super::limiter`]. A call that belongs to a
//! trace is recorded in it as a client span, with the semantic conventions for HTTP.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error as BollardError,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerSummary, HostConfig, HostConfigLogConfig,
        Mount as DockerMount, MountPoint, MountType, RestartPolicy, RestartPolicyNameEnum,
        VolumeCreateRequest,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
        ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
    },
};
use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;
use tracing::Instrument;

use super::{
    Container, ContainerEngine, ContainerId, ContainerState, EngineInfo, Error, Handle, Observed, Removal,
    Volume,
};
use crate::domain::spec::{ContainerSpec, Mount, MountSource, VolumeSpec, label};

/// Timeout of the Docker client, far above the limiter's default deadlines, which end a call first.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A client of a Docker daemon.
#[derive(Debug)]
pub struct DockerEngine {
    host: String,
    client: OnceCell<Docker>,
}

impl DockerEngine {
    /// Builds a client of the daemon at `host` (`unix://…` or `tcp://…`).
    pub fn at(host: &str) -> Self {
        Self { host: host.to_owned(), client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&Docker, Error> {
        self.client
            .get_or_try_init(|| async {
                Docker::connect_with_host(&self.host)?.with_timeout(CLIENT_TIMEOUT).negotiate_version().await
            })
            .await
            .map_err(error)
    }

    /// Makes one call; `method` and `path` name it as Docker's API reference does.
    async fn call<'a, T, F>(
        &'a self,
        method: &'static str,
        path: &'static str,
        ask: impl FnOnce(&'a Docker) -> F + Send,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, BollardError>> + Send,
    {
        let span = match tracing::Span::current().is_none() {
            // The periodic passes call without a trace, and a span for each of their calls would fill the
            // trace store.
            true => tracing::Span::none(),
            false => tracing::info_span!(
                "docker",
                otel.name = format!("{method} {path}"),
                otel.kind = "client",
                otel.status_code = tracing::field::Empty,
                http.request.method = method,
                url.template = path,
                server.address = self.host,
                http.response.status_code = tracing::field::Empty,
                error.r#type = tracing::field::Empty,
            ),
        };
        let asked = async { ask(self.client().await?).await.map_err(error) };
        let answer = asked.instrument(span.clone()).await;
        if let Err(error) = &answer {
            span.record("otel.status_code", "ERROR");
            match status_of(error) {
                Some(status) => {
                    span.record("http.response.status_code", status);
                    span.record("error.type", status.to_string());
                }
                None => drop(span.record("error.type", "unreachable")),
            }
        }
        answer
    }
}

#[async_trait]
impl ContainerEngine for DockerEngine {
    async fn info(&self) -> Result<EngineInfo, Error> {
        let info = self.call("GET", "/info", Docker::info).await?;
        Ok(EngineInfo {
            id: info.id.filter(|id| !id.is_empty()).ok_or(Error::Malformed("an engine id"))?,
            memory_bytes: info.mem_total.ok_or(Error::Malformed("the host's memory"))?,
            root: info.docker_root_dir.ok_or(Error::Malformed("a root directory"))?,
        })
    }

    async fn image(&self, name: &str) -> Observed<String> {
        let inspect = async {
            let image = self.call("GET", "/images/{name}/json", |docker| docker.inspect_image(name)).await?;
            image.id.ok_or(Error::Malformed("an image id"))
        };
        inspect.await.into()
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let create = |docker| Docker::create_container(docker, Some(options), body(spec));
        let created = self.call("POST", "/containers/create", create).await?;
        Ok(ContainerId(created.id))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Error> {
        let options = None::<StartContainerOptions>;
        self.call("POST", "/containers/{id}/start", |docker| docker.start_container(&id.0, options)).await
    }

    async fn observe(&self, handle: Handle<'_>) -> Observed<Container> {
        let inspect = async {
            let options = None::<InspectContainerOptions>;
            let look = |docker| Docker::inspect_container(docker, handle.as_str(), options);
            inspected(self.call("GET", "/containers/{id}/json", look).await?)
        };
        inspect.await.into()
    }

    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error> {
        // Removes with one forced call, because the container could be started again between a stop and a
        // removal. `v` also removes the anonymous volumes that an image declares, which no row names; named
        // volumes stay.
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let remove = |docker| Docker::remove_container(docker, handle.as_str(), Some(options));
        match self.call("DELETE", "/containers/{id}", remove).await {
            Ok(()) => Ok(Removal::Removed),
            Err(Error::NotFound) => Ok(Removal::Absent),
            Err(Error::Conflict(_)) => Ok(Removal::InProgress),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error> {
        let options =
            ListContainersOptionsBuilder::default().all(true).filters(&labelled(installation)).build();
        let list = |docker| Docker::list_containers(docker, Some(options));
        let listed = self.call("GET", "/containers/json", list).await?;
        listed.into_iter().map(summarised).collect()
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        let request = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        // Docker answers with an existing volume of this name, also if another installation made it.
        let volume = self.call("POST", "/volumes/create", |docker| docker.create_volume(request)).await?;
        match spec.labels.iter().all(|(name, value)| volume.labels.get(name) == Some(value)) {
            true => Ok(()),
            false => Err(Error::Conflict(format!("volume {} has other labels", spec.name))),
        }
    }

    async fn remove_volume(&self, name: &str) -> Result<Removal, Error> {
        let remove = |docker| Docker::remove_volume(docker, name, None::<RemoveVolumeOptions>);
        match self.call("DELETE", "/volumes/{name}", remove).await {
            Ok(()) => Ok(Removal::Removed),
            Err(Error::NotFound) => Ok(Removal::Absent),
            Err(error) => Err(error),
        }
    }

    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error> {
        let options = ListVolumesOptionsBuilder::default().filters(&labelled(installation)).build();
        let listed = self.call("GET", "/volumes", |docker| docker.list_volumes(Some(options))).await?;
        Ok(listed
            .volumes
            .unwrap_or_default()
            .into_iter()
            .map(|volume| Volume { name: volume.name, labels: volume.labels.into_iter().collect() })
            .collect())
    }
}

/// Returns the HTTP status of the daemon's answer, if it answered.
fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::NotFound => Some(404),
        Error::Conflict(_) => Some(409),
        Error::Refused { status, .. } | Error::Failed { status, .. } => Some(*status),
        Error::Unreachable(_)
        | Error::TimedOut(_)
        | Error::Busy
        | Error::BreakerOpen(_)
        | Error::Malformed(_) => None,
    }
}

fn labelled(installation: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{}={installation}", label::INSTALLATION)])])
}

fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let log = HashMap::from([
        ("max-size".to_owned(), spec.log_bytes.to_string()),
        ("max-file".to_owned(), "1".to_owned()),
    ]);
    let host = HostConfig {
        nano_cpus: Some(i64::from(spec.cpu_millis) * 1_000_000),
        memory: Some(spec.memory_bytes),
        memory_swap: Some(spec.memory_swap_bytes),
        pids_limit: Some(spec.pids),
        cap_drop: owned(&spec.cap_drop),
        cap_add: owned(&spec.cap_add),
        security_opt: owned(&spec.security_options),
        readonly_rootfs: Some(spec.read_only_root),
        init: Some(spec.init),
        privileged: Some(false),
        network_mode: Some(spec.network.to_owned()),
        ipc_mode: Some("private".to_owned()),
        runtime: spec.runtime.clone(),
        tmpfs: Some(spec.tmpfs.iter().map(|(path, how)| ((*path).to_owned(), (*how).to_owned())).collect()),
        mounts: Some(spec.mounts.iter().map(docker_mount).collect()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log) }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // Clears the image's entrypoint; Docker would otherwise pass the command to it as arguments.
        entrypoint: Some(vec![]),
        cmd: Some(spec.command.clone()),
        user: Some(spec.user.to_owned()),
        working_dir: Some(spec.working_dir.to_owned()),
        env: owned(&spec.env),
        labels: Some(spec.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// Uses the long form of a mount: with the short one (`binds`) Docker creates a missing directory instead of
/// refusing the container.
fn docker_mount(mount: &Mount) -> DockerMount {
    let (typ, source) = match &mount.source {
        MountSource::Bind(path) => (MountType::BIND, path.to_string_lossy().into_owned()),
        MountSource::Volume(name) => (MountType::VOLUME, name.clone()),
    };
    DockerMount {
        typ: Some(typ),
        source: Some(source),
        target: Some(mount.target.to_string_lossy().into_owned()),
        read_only: Some(mount.read_only),
        ..DockerMount::default()
    }
}

fn inspected(container: ContainerInspectResponse) -> Result<Container, Error> {
    let config = container.config.ok_or(Error::Malformed("a configuration"))?;
    let status = container.state.and_then(|state| state.status).ok_or(Error::Malformed("a state"))?;
    let created_at = container.created.and_then(|at| DateTime::parse_from_rfc3339(&at).ok());
    Ok(Container {
        id: ContainerId(container.id.ok_or(Error::Malformed("a container id"))?),
        name: container.name.as_deref().map(bare_name).ok_or(Error::Malformed("a name"))?,
        image: container.image.ok_or(Error::Malformed("an image id"))?,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        mounts: mounts(container.mounts),
        state: state(status.as_ref())?,
        created_at: created_at.map(|at| at.with_timezone(&Utc)),
    })
}

fn summarised(container: ContainerSummary) -> Result<Container, Error> {
    let names = container.names.unwrap_or_default();
    Ok(Container {
        id: ContainerId(container.id.ok_or(Error::Malformed("a container id"))?),
        // A container that is being removed may have lost its name already.
        name: names.first().map(|name| bare_name(name)).unwrap_or_default(),
        image: container.image_id.ok_or(Error::Malformed("an image id"))?,
        labels: container.labels.unwrap_or_default().into_iter().collect(),
        mounts: mounts(container.mounts),
        state: state(container.state.ok_or(Error::Malformed("a state"))?.as_ref())?,
        created_at: container.created.and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
    })
}

fn state(name: &str) -> Result<ContainerState, Error> {
    match name {
        "created" => Ok(ContainerState::Created),
        "running" | "restarting" | "stopping" => Ok(ContainerState::Running),
        "paused" => Ok(ContainerState::Paused),
        "removing" => Ok(ContainerState::Removing),
        "exited" | "dead" => Ok(ContainerState::Exited),
        _ => Err(Error::Malformed("a state")),
    }
}

fn mounts(points: Option<Vec<MountPoint>>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = points.unwrap_or_default().into_iter().filter_map(mounted).collect();
    mounts.sort();
    mounts
}

/// Returns a bind or volume; memory filesystems are not compared.
fn mounted(point: MountPoint) -> Option<Mount> {
    let source = match point.typ.as_deref()? {
        "bind" => MountSource::Bind(point.source?.into()),
        "volume" => MountSource::Volume(point.name?),
        _ => return None,
    };
    Some(Mount { source, target: point.destination?.into(), read_only: point.rw == Some(false) })
}

fn bare_name(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

/// Classifies by status alone, because messages change between releases of Docker.
fn error(error: BollardError) -> Error {
    match error {
        BollardError::DockerResponseServerError { status_code: 404, .. } => Error::NotFound,
        BollardError::DockerResponseServerError { status_code: 409, message } => Error::Conflict(message),
        BollardError::DockerResponseServerError { status_code: status @ 400..=499, message } => {
            Error::Refused { status, message }
        }
        BollardError::DockerResponseServerError { status_code: status, message } => {
            Error::Failed { status, message }
        }
        other => Error::Unreachable(Box::new(other)),
    }
}
