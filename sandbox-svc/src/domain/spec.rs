//! The container of a sandbox, as data: everything that keeps what runs inside from the host and from the others.
//!
//! [`ContainerSpec::of`] is the only maker. The engine translates the result field by field and adds nothing, so
//! what this file says is what runs; its snapshot test and the inspection of a real container hold it to that.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use svc_core::id::SandboxId;

/// User and group of everything inside.
pub const USER: &str = "1001:1001";
/// Where the session's volume is.
pub const WORKSPACE: &str = "/workspace";
/// Where the run directory is, seen from inside.
pub const RUN_DIRECTORY: &str = "/run/steward";
/// Where the guest's program is, seen from inside.
pub const GUEST_PROGRAM: &str = "/opt/steward/guest";

const PIDS: i64 = 512;
const ENVIRONMENT: [&str; 3] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/user", "LANG=C.UTF-8"];
/// Pages of both count against the container's memory. Executable: tools build and run things in them.
const TMPFS: [(&str, &str); 2] = [
    ("/tmp", "rw,nosuid,nodev,exec,size=512m,mode=1777"),
    ("/home/user", "rw,nosuid,nodev,exec,size=1024m,mode=755,uid=1001,gid=1001"),
];

/// Label keys. Labels cannot be changed, so they say only what stays true.
pub mod label {
    /// Which installation of Steward made it; others' are never touched.
    pub const INSTALLATION: &str = "steward.installation";
    /// The engine it was made for.
    pub const ENGINE: &str = "steward.engine";
    /// The sandbox it belongs to.
    pub const SANDBOX: &str = "steward.sandbox";
    /// Generation of the sandbox for which it was made.
    pub const GENERATION: &str = "steward.generation";
    /// When it was asked for.
    pub const CREATED_AT: &str = "steward.created_at";
    /// The volume row, on volumes.
    pub const VOLUME: &str = "steward.volume";
}

/// What a kind of sandbox is made of; a warm one can be claimed only by who wants its shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Image by name or digest.
    pub image: String,
    /// OCI runtime; empty: the engine's default.
    pub runtime: String,
    /// Thousandths of a CPU.
    pub cpu_millis: i32,
    /// Bytes of memory, swap included: there is none beyond.
    pub memory_bytes: i64,
    /// What it may reach.
    pub network: Network,
}

/// What a sandbox may reach over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing: the guest's socket is the only way in or out.
    None,
}

/// What tells one container from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The installation that makes it.
    pub installation: String,
    /// The engine it is made on.
    pub engine: String,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Generation of the sandbox as its making was committed.
    pub generation: i64,
}

impl Identity {
    /// The container's name: one for each generation, so a create that was repeated meets itself.
    #[must_use]
    pub fn name(&self) -> String {
        container_name(self.sandbox, self.generation)
    }
}

/// Name of the container of a sandbox's generation.
#[must_use]
pub fn container_name(sandbox: SandboxId, generation: i64) -> String {
    format!("steward-{sandbox}-{generation}")
}

/// Places on the host that are mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The guest's program.
    pub guest: PathBuf,
    /// This generation's run directory. Without it the engine refuses to create or start the container.
    pub run_dir: PathBuf,
    /// Name of the workspace's volume.
    pub volume: String,
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerSpec {
    /// Name.
    pub name: String,
    /// Image id: a name could point elsewhere by the time it is used.
    pub image: String,
    /// Command.
    pub command: Vec<String>,
    /// User and group.
    pub user: &'static str,
    /// Working directory.
    pub working_dir: &'static str,
    /// Environment; identity and secrets come later, through the guest.
    pub env: Vec<&'static str>,
    /// Labels.
    pub labels: BTreeMap<&'static str, String>,
    /// OCI runtime, unless the engine's default.
    pub runtime: Option<String>,
    /// Thousandths of a CPU.
    pub cpu_millis: i32,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of memory and swap.
    pub memory_swap_bytes: i64,
    /// Most processes and threads.
    pub pids: i64,
    /// Capabilities taken away.
    pub cap_drop: Vec<&'static str>,
    /// Capabilities given.
    pub cap_add: Vec<&'static str>,
    /// Security options; the default seccomp and AppArmor profiles stay.
    pub security_options: Vec<&'static str>,
    /// Whether the root filesystem is read-only.
    pub read_only_root: bool,
    /// Whether a small init reaps what is left behind.
    pub init: bool,
    /// Network mode.
    pub network: &'static str,
    /// Memory filesystems and their options.
    pub tmpfs: BTreeMap<&'static str, &'static str>,
    /// Binds and volumes.
    pub mounts: Vec<Mount>,
    /// Bytes of log the engine keeps: processes inside can write to it, and it lies on the host's disk.
    pub log_bytes: u64,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Mount {
    /// Where it comes from.
    pub source: MountSource,
    /// Where it is inside.
    pub target: PathBuf,
    /// Whether it may not be written.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the host, which must exist.
    Bind(PathBuf),
    /// A named volume.
    Volume(String),
}

impl ContainerSpec {
    /// The container of `identity` in `shape`, from the image `image` (an id), asked for at `at`.
    #[must_use]
    pub fn of(identity: &Identity, shape: &Shape, image: &str, places: &Places, at: DateTime<Utc>) -> Self {
        let labels = BTreeMap::from([
            (label::INSTALLATION, identity.installation.clone()),
            (label::ENGINE, identity.engine.clone()),
            (label::SANDBOX, identity.sandbox.to_string()),
            (label::GENERATION, identity.generation.to_string()),
            (label::CREATED_AT, at.to_rfc3339_opts(SecondsFormat::Micros, true)),
        ]);
        Self {
            name: identity.name(),
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
            labels,
            runtime: Some(shape.runtime.clone()).filter(|runtime| !runtime.is_empty()),
            cpu_millis: shape.cpu_millis,
            memory_bytes: shape.memory_bytes,
            memory_swap_bytes: shape.memory_bytes,
            pids: PIDS,
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
                bind(&places.guest, GUEST_PROGRAM, true),
                bind(&places.run_dir, RUN_DIRECTORY, false),
                Mount {
                    source: MountSource::Volume(places.volume.clone()),
                    target: WORKSPACE.into(),
                    read_only: false,
                },
            ],
            log_bytes: 256 << 10,
        }
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount { source: MountSource::Bind(source.to_owned()), target: target.into(), read_only }
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<&'static str, String>,
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
        let places = Places {
            guest: "/usr/lib/steward/guest".into(),
            run_dir: "/run/steward/a".into(),
            volume: "steward-v".into(),
        };
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        ContainerSpec::of(&identity, &shape, "sha256:abc", &places, at)
    }

    #[test]
    fn the_container_is_exactly_this() {
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
                {"source": {"bind": "/usr/lib/steward/guest"}, "target": "/opt/steward/guest", "read_only": true},
                {"source": {"bind": "/run/steward/a"}, "target": "/run/steward", "read_only": false},
                {"source": {"volume": "steward-v"}, "target": "/workspace", "read_only": false},
            ],
            "log_bytes": 262_144,
        });
        assert_eq!(serde_json::to_value(spec()).unwrap(), expected);
    }
}
