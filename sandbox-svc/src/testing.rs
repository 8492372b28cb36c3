//! The items of this crate that tests and benchmarks use, and the artefacts that they run on a real engine.
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

/// Returns the Docker engine of this machine.
pub fn docker() -> DockerEngine {
    DockerEngine::at(&docker_host())
}

/// Returns the address at which the engine of this machine listens.
pub fn docker_host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// Returns the name of the small sandbox image, which is built if it is missing.
pub fn sandbox_image() -> String {
    script("build-image.sh", &["busybox"])
}

/// Returns the path of the static guest program: `STEWARD_GUEST` if set, or else one that is built if it is
/// not up to date.
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

/// An installation for one test. On drop, every container and volume with its label is removed.
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
        // Does not panic if the test panics already: a second panic would abort the process and hide the
        // first.
        assert!(std::thread::panicking() || removed.is_ok_and(|removed| removed.status.success()));
    }
}
