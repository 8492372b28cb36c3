//! The container of a sandbox as data: every setting that isolates it from the host and from other sandboxes.
//!
//! [`ContainerSpec::of`] is the only constructor. The engine translates the result field by field and adds
//! nothing, so this file decides what runs. A snapshot test and the inspection of a real container check
//! that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use svc_core::id::SandboxId;

use super::{
    VolumeId,
    sandbox::{Container, Sandbox},
    shape::{Network, Shape},
};

/// User and group of every process inside.
pub const USER: &str = "1001:1001";
/// Mount point of the workspace's volume.
pub const WORKSPACE: &str = "/workspace";
/// Mount point of the run directory.
pub const RUN_DIRECTORY: &str = "/run/steward";
/// Mount point of the guest's program.
pub const GUEST_PROGRAM: &str = "/opt/steward/guest";

/// Maximum processes and threads of a container, because a fork bomb must not exhaust the host's process
/// table.
const MAX_PIDS: i64 = 512;
/// Maximum bytes of log that the engine keeps of a container, because processes inside can write to the log,
/// and it is on the host's disk.
const MAX_LOG_BYTES: u64 = 256 << 10;
const ENVIRONMENT: [&str; 3] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/user", "LANG=C.UTF-8"];
/// Memory filesystems; their pages count against the container's memory. They are executable, because tools
/// build and run programs in them.
const TMPFS: [(&str, &str); 2] = [
    ("/tmp", "rw,nosuid,nodev,exec,size=512m,mode=1777"),
    ("/home/user", "rw,nosuid,nodev,exec,size=1024m,mode=755,uid=1001,gid=1001"),
];

/// Label keys. Labels cannot be changed later, so they hold only facts that do not change.
pub mod label {
    /// The installation of Steward that created it; objects of other installations are never touched.
    pub const INSTALLATION: &str = "steward.installation";
    /// Id of the engine it was created for.
    pub const ENGINE: &str = "steward.engine";
    /// Id of its sandbox.
    pub const SANDBOX: &str = "steward.sandbox";
    /// Generation of its sandbox when its creation was committed.
    pub const GENERATION: &str = "steward.generation";
    /// When its sandbox was requested.
    pub const CREATED_AT: &str = "steward.created_at";
    /// Id of the volume's row; on volumes only.
    pub const VOLUME: &str = "steward.volume";
}

/// The identity of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub installation: String,
    pub engine: String,
    pub sandbox: SandboxId,
    /// Generation of the sandbox when the creation was committed.
    pub generation: i64,
}

impl Identity {
    /// Identifies `container` of `sandbox` in an installation.
    pub fn of(installation: &str, sandbox: &Sandbox, container: &Container) -> Self {
        Self {
            installation: installation.to_owned(),
            engine: sandbox.engine.clone(),
            sandbox: sandbox.id,
            generation: container.generation,
        }
    }
}

/// Returns a container's name. Each generation has its own, so a worker that repeats a create finds the
/// container that an earlier attempt created.
pub fn container_name(sandbox: SandboxId, generation: i64) -> String {
    format!("steward-{sandbox}-{generation}")
}

/// Returns the name of a workspace's volume.
pub fn volume_name(id: VolumeId) -> String {
    format!("steward-workspace-{id}")
}

/// The sources of a container's mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSources {
    /// The guest's program on the host.
    pub guest: PathBuf,
    /// This generation's run directory. Without it the engine refuses to create or start the container.
    pub run_dir: PathBuf,
    /// Name of the workspace's volume.
    pub volume: String,
}

/// A container to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerSpec {
    pub name: String,
    /// Image id; a name could point to another image when the engine reads it.
    pub image: String,
    pub command: Vec<String>,
    pub user: &'static str,
    pub working_dir: &'static str,
    /// Environment, without identity and secrets: anyone who can inspect the container reads it.
    pub env: Vec<&'static str>,
    pub labels: BTreeMap<String, String>,
    /// OCI runtime; `None` for the engine's default.
    pub runtime: Option<String>,
    /// Thousandths of a CPU.
    pub cpu_millis: i32,
    pub memory_bytes: i64,
    /// Bytes of memory and swap together.
    pub memory_swap_bytes: i64,
    /// Maximum processes and threads.
    pub pids: i64,
    pub cap_drop: Vec<&'static str>,
    pub cap_add: Vec<&'static str>,
    /// Security options; the default seccomp and AppArmor profiles stay.
    pub security_options: Vec<&'static str>,
    pub read_only_root: bool,
    /// Whether the engine's init is process 1 and reaps orphaned processes.
    pub init: bool,
    pub network: &'static str,
    /// Memory filesystems: mount point and options.
    pub tmpfs: BTreeMap<&'static str, &'static str>,
    pub mounts: Vec<Mount>,
    /// Maximum bytes of log that the engine keeps.
    pub log_bytes: u64,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Mount {
    pub source: MountSource,
    /// Its path inside the container.
    pub target: PathBuf,
    pub read_only: bool,
}

/// Source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the host, which must exist.
    Bind(PathBuf),
    Volume(String),
}

impl ContainerSpec {
    /// Builds the container of `identity` with `shape`, from the image with id `image`, requested at `at`.
    pub fn of(
        identity: &Identity,
        shape: &Shape,
        image: &str,
        mounts: &MountSources,
        at: DateTime<Utc>,
    ) -> Self {
        let labels = [
            (label::INSTALLATION, identity.installation.clone()),
            (label::ENGINE, identity.engine.clone()),
            (label::SANDBOX, identity.sandbox.to_string()),
            (label::GENERATION, identity.generation.to_string()),
            (label::CREATED_AT, at.to_rfc3339_opts(SecondsFormat::Micros, true)),
        ];
        Self {
            name: container_name(identity.sandbox, identity.generation),
            image: image.to_owned(),
            command: vec![
                GUEST_PROGRAM.to_owned(),
                RUN_DIRECTORY.to_owned(),
                identity.sandbox.to_string(),
                identity.generation.to_string(),
            ],
            user: USER,
            working_dir: WORKSPACE,
            env: ENVIRONMENT.to_vec(),
            labels: owned(labels),
            runtime: Some(shape.runtime.clone()).filter(|runtime| !runtime.is_empty()),
            cpu_millis: shape.cpu_millis,
            memory_bytes: shape.memory_bytes,
            memory_swap_bytes: shape.memory_bytes,
            pids: MAX_PIDS,
            cap_drop: vec!["ALL"],
            cap_add: vec![],
            security_options: vec!["no-new-privileges:true"],
            read_only_root: true,
            init: true,
            network: match shape.network {
                Network::None => "none",
            },
            tmpfs: TMPFS.into(),
            mounts: vec![
                bind(&mounts.guest, GUEST_PROGRAM, true),
                bind(&mounts.run_dir, RUN_DIRECTORY, false),
                Mount {
                    source: MountSource::Volume(mounts.volume.clone()),
                    target: WORKSPACE.into(),
                    read_only: false,
                },
            ],
            log_bytes: MAX_LOG_BYTES,
        }
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount { source: MountSource::Bind(source.to_owned()), target: target.into(), read_only }
}

/// A volume to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

impl VolumeSpec {
    /// Builds the volume of a sandbox's workspace. Its labels identify it to the reconciler if its row is
    /// lost.
    pub fn of(installation: &str, sandbox: &Sandbox) -> Self {
        Self {
            name: volume_name(sandbox.volume),
            labels: owned([
                (label::INSTALLATION, installation.to_owned()),
                (label::ENGINE, sandbox.engine.clone()),
                (label::VOLUME, sandbox.volume.to_string()),
            ]),
        }
    }
}

fn owned<const N: usize>(labels: [(&str, String); N]) -> BTreeMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> ContainerSpec {
        let identity = Identity {
            installation: "test".into(),
            engine: "ENGINE".into(),
            sandbox: SandboxId::parse("id", "01980000-0000-7000-8000-000000000001").unwrap(),
            generation: 3,
        };
        let shape = Shape {
            image: "steward-sandbox:debian".into(),
            runtime: String::new(),
            cpu_millis: 1500,
            memory_bytes: 1 << 30,
            network: Network::None,
        };
        let mounts = MountSources {
            guest: "/usr/lib/steward/guest".into(),
            run_dir: "/run/steward/a".into(),
            volume: "steward-v".into(),
        };
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        ContainerSpec::of(&identity, &shape, "sha256:abc", &mounts, at)
    }

    #[test]
    fn the_container_spec_is_exactly_this() {
        let expected = json!({
            "name": "steward-01980000-0000-7000-8000-000000000001-3",
            "image": "sha256:abc",
            "command": ["/opt/steward/guest", "/run/steward", "01980000-0000-7000-8000-000000000001", "3"],
            "user": "1001:1001",
            "working_dir": "/workspace",
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/home/user",
                "LANG=C.UTF-8",
            ],
            "labels": {
                "steward.created_at": "2027-01-15T08:00:00.000000Z",
                "steward.engine": "ENGINE",
                "steward.generation": "3",
                "steward.installation": "test",
                "steward.sandbox": "01980000-0000-7000-8000-000000000001",
            },
            "runtime": null,
            "cpu_millis": 1500,
            "memory_bytes": 1_073_741_824,
            "memory_swap_bytes": 1_073_741_824,
            "pids": 512,
            "cap_drop": ["ALL"],
            "cap_add": [],
            "security_options": ["no-new-privileges:true"],
            "read_only_root": true,
            "init": true,
            "network": "none",
            "tmpfs": {
                "/home/user": "rw,nosuid,nodev,exec,size=1024m,mode=755,uid=1001,gid=1001",
                "/tmp": "rw,nosuid,nodev,exec,size=512m,mode=1777",
            },
            "mounts": [
                {
                    "source": {"bind": "/usr/lib/steward/guest"},
                    "target": "/opt/steward/guest",
                    "read_only": true,
                },
                {"source": {"bind": "/run/steward/a"}, "target": "/run/steward", "read_only": false},
                {"source": {"volume": "steward-v"}, "target": "/workspace", "read_only": false},
            ],
            "log_bytes": 262_144,
        });
        assert_eq!(serde_json::to_value(spec()).unwrap(), expected);
    }
}
