//! The items that the crate's own tests and benchmarks use, and the artefacts that they run on a real engine.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use svc_core::id::new_id;

use crate::{domain::spec::label, engine::docker::DockerEngine};

pub mod domain {
    pub use crate::domain::*;
}

pub mod engine {
    pub use crate::engine::*;
}

pub mod store {
    pub use crate::store::*;
}
pub use crate::{
    app::{
        Deps,
        admission::Admission,
        creation::{Creator, Job},
        custodian::Custodian,
        deadlines,
        execs::Execs,
        files::Files,
        notices::Notices,
        reconcile::{Reconciliation, Report},
        removal::Remover,
        sandboxes::Sandboxes,
        served::{EngineSlot, Served},
        settings::{CreateSettings, Lifetimes, PoolSettings, ReconcileSettings, Settings},
        workspaces,
    },
    client::guest,
    error::{Error, Result},
    metrics::Metrics,
    run_dirs::RunDirectories,
    worker::{PassLease, host::HostLevel, pool, reconcile::Reconciler},
};

/// The engine of this machine.
pub fn docker() -> DockerEngine {
    DockerEngine::at(&docker_host())
}

/// Address at which the engine of this machine listens.
pub fn docker_host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// Name of the small sandbox image, built if it is not there.
pub fn sandbox_image() -> String {
    script("build-image.sh", &["busybox"])
}

/// The static guest program: the one that `STEWARD_GUEST` names, or built if it is not fresh.
pub fn guest_program() -> PathBuf {
    match std::env::var_os("STEWARD_GUEST") {
        Some(guest) => guest.into(),
        None => script("build-guest.sh", &[]).into(),
    }
}

fn script(name: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sandbox").join(name);
    let run = Command::new(&path).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(run.status.success(), "{} failed", path.display());
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

/// An installation of one test's own; when dropped, every container and volume with its label is gone.
#[derive(Debug)]
pub struct Installation(pub String);

impl Default for Installation {
    fn default() -> Self {
        Self(format!("test-{}", new_id()))
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let filter = format!("label={}={}", label::INSTALLATION, self.0);
        sweep(&["ps", "--all", "--quiet", "--no-trunc"], &["rm", "--force"], &filter);
        sweep(&["volume", "ls", "--quiet"], &["volume", "rm", "--force"], &filter);
    }
}

fn sweep(list: &[&str], remove: &[&str], filter: &str) {
    let run =
        |arguments: &[&str]| Command::new("docker").arg("--host").arg(docker_host()).args(arguments).output();
    let Ok(listed) = run(&[list, &["--filter", filter]].concat()) else { return };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let found: Vec<&str> = text.lines().collect();
    if !found.is_empty() {
        let removed = run(&[remove, &found].concat());
        // Panicking here, in a drop, would hide what the test found; the next list would show what is left.
        assert!(std::thread::panicking() || removed.is_ok_and(|removed| removed.status.success()));
    }
}
