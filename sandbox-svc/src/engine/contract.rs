//! Tests that every [`ContainerEngine`](super::ContainerEngine) passes. They run on the simulator and on
//! Docker, so that tests with the simulator hold for Docker too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

use chrono::DateTime;
use svc_core::id::SandboxId;

use super::{ContainerState, Error, Handle, Observed, Removal, SharedEngine};
use crate::domain::{
    shape::{Network, Shape},
    spec::{ContainerSpec, Identity, MountSources, VolumeSpec, label},
};

/// An engine under test, and the parts that its containers are made of.
#[derive(Debug)]
pub struct Bench {
    pub engine: SharedEngine,
    /// Name of an image that the engine has.
    pub image: String,
    /// The guest's program on the host.
    pub guest: PathBuf,
    /// Directory for run directories.
    pub base: tempfile::TempDir,
    /// An installation that no other bench uses.
    pub installation: String,
    generation: AtomicI64,
}

impl Bench {
    pub fn new(engine: SharedEngine, image: &str, guest: PathBuf, installation: &str) -> Self {
        Self {
            engine,
            image: image.to_owned(),
            guest,
            base: tempfile::tempdir().unwrap(),
            installation: installation.to_owned(),
            generation: AtomicI64::new(1),
        }
    }

    /// Builds the specification of a new container, and makes its run directory and its volume.
    pub async fn spec(&self) -> ContainerSpec {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let identity = Identity {
            installation: self.installation.clone(),
            engine: self.engine.info().await.unwrap().id,
            sandbox: SandboxId::new(),
            generation,
        };
        let run_dir = self.base.path().join(identity.sandbox.to_string());
        fs::create_dir(&run_dir).unwrap();
        // The guest runs as another user and creates its socket there.
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o777)).unwrap();
        let mounts = MountSources {
            guest: self.guest.clone(),
            run_dir,
            volume: format!("steward-test-{}", identity.sandbox),
        };
        let shape = Shape {
            image: self.image.clone(),
            runtime: String::new(),
            cpu_millis: 500,
            memory_bytes: 64 << 20,
            network: Network::None,
        };
        let Observed::Present(image) = self.engine.image(&self.image).await else { panic!("no image") };
        self.engine.create_volume(&self.volume(&mounts.volume)).await.unwrap();
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        ContainerSpec::of(&identity, &shape, &image, &mounts, at)
    }

    fn volume(&self, name: &str) -> VolumeSpec {
        VolumeSpec {
            name: name.to_owned(),
            labels: [(label::INSTALLATION.to_owned(), self.installation.clone())].into(),
        }
    }

    fn run_dir(&self, spec: &ContainerSpec) -> PathBuf {
        self.base.path().join(&spec.labels[label::SANDBOX])
    }

    async fn state(&self, handle: Handle<'_>) -> Option<ContainerState> {
        match self.engine.observe(handle).await {
            Observed::Present(container) => Some(container.state),
            Observed::Absent => None,
            Observed::Unknown(error) => panic!("{error}"),
        }
    }
}

/// Declares one test for each part of the contract. `$bench` gives a [`Bench`] and a guard that cleans up.
#[macro_export]
macro_rules! engine_contract {
    ($bench:expr) => {
        $crate::engine_contract!(@ $bench,
            a_created_container_is_found_by_id_name_and_list,
            a_name_is_taken_once_and_its_container_is_recognised,
            a_removed_container_is_absent_and_may_be_removed_again,
            a_container_needs_its_run_directory_to_be_created_or_started,
            an_unknown_image_has_its_own_answer,
            starting_twice_succeeds_and_starting_nothing_fails,
            a_volume_is_removed_only_when_no_container_mounts_it,
            a_volume_with_other_labels_is_a_conflict,
            other_installations_are_not_listed,
            concurrent_removals_agree_in_the_end,
        );
    };
    (@ $bench:expr, $($name:ident,)+) => {$(
        #[tokio::test]
        async fn $name() {
            let (bench, _guard) = $bench;
            $crate::testing::engine::contract::$name(&bench).await;
        }
    )+};
}

pub async fn a_created_container_is_found_by_id_name_and_list(bench: &Bench) {
    let spec = bench.spec().await;
    let id = bench.engine.create(&spec).await.unwrap();
    for handle in [Handle::Id(&id), Handle::Name(&spec.name)] {
        let Observed::Present(found) = bench.engine.observe(handle).await else { panic!("not found") };
        assert!(found.matches(&spec), "{found:?} is not of {spec:?}");
        assert_eq!((&found.id, found.state), (&id, ContainerState::Created));
    }
    let listed = bench.engine.list(&bench.installation).await.unwrap();
    assert!(listed.len() == 1 && listed[0].matches(&spec) && listed[0].id == id, "{listed:?}");
    assert_eq!(listed[0].sandbox().unwrap().0.to_string(), spec.labels[label::SANDBOX]);
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.state(Handle::Id(&id)).await, Some(ContainerState::Running));
}

pub async fn a_name_is_taken_once_and_its_container_is_recognised(bench: &Bench) {
    let spec = bench.spec().await;
    let id = bench.engine.create(&spec).await.unwrap();
    let again = bench.engine.create(&spec).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let Observed::Present(found) = bench.engine.observe(Handle::Name(&spec.name)).await else {
        panic!("not found")
    };
    assert!(found.id == id && found.matches(&spec));
    let mut other = bench.spec().await;
    other.name = spec.name;
    assert!(!found.matches(&other), "another sandbox's container is taken for this one's");
}

pub async fn a_removed_container_is_absent_and_may_be_removed_again(bench: &Bench) {
    let spec = bench.spec().await;
    let id = bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.engine.remove(Handle::Id(&id)).await.unwrap(), Removal::Removed);
    assert_eq!(bench.state(Handle::Id(&id)).await, None);
    assert_eq!(bench.state(Handle::Name(&spec.name)).await, None);
    assert_eq!(bench.engine.remove(Handle::Id(&id)).await.unwrap(), Removal::Absent);
    assert_eq!(bench.engine.remove(Handle::Name(&spec.name)).await.unwrap(), Removal::Absent);
    assert!(bench.engine.list(&bench.installation).await.unwrap().is_empty());
}

/// Checks that a missing run directory stops creates and starts. Removals rely on it: after a directory is
/// revoked, no create or start that is still under way succeeds.
pub async fn a_container_needs_its_run_directory_to_be_created_or_started(bench: &Bench) {
    let refused = bench.spec().await;
    fs::remove_dir(bench.run_dir(&refused)).unwrap();
    let create = bench.engine.create(&refused).await;
    assert!(matches!(create, Err(Error::Refused { .. })), "{create:?}");
    assert_eq!(bench.state(Handle::Name(&refused.name)).await, None);
    assert!(!bench.run_dir(&refused).exists(), "the engine made the directory");

    let late = bench.spec().await;
    let id = bench.engine.create(&late).await.unwrap();
    fs::remove_dir(bench.run_dir(&late)).unwrap();
    let start = bench.engine.start(&id).await;
    assert!(matches!(start, Err(Error::Refused { .. } | Error::Failed { .. })), "{start:?}");
    assert_ne!(bench.state(Handle::Id(&id)).await, Some(ContainerState::Running));
    assert!(!bench.run_dir(&late).exists(), "the engine made the directory");
}

pub async fn an_unknown_image_has_its_own_answer(bench: &Bench) {
    assert!(matches!(bench.engine.image("steward-sandbox:no-such").await, Observed::Absent));
    let unknown = ContainerSpec { image: format!("sha256:{:064x}", 7), ..bench.spec().await };
    let create = bench.engine.create(&unknown).await;
    assert!(matches!(create, Err(Error::NotFound)), "{create:?}");
}

pub async fn starting_twice_succeeds_and_starting_nothing_fails(bench: &Bench) {
    let id = bench.engine.create(&bench.spec().await).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    bench.engine.remove(Handle::Id(&id)).await.unwrap();
    let start = bench.engine.start(&id).await;
    assert!(matches!(start, Err(Error::NotFound)), "{start:?}");
}

pub async fn a_volume_is_removed_only_when_no_container_mounts_it(bench: &Bench) {
    let spec = bench.spec().await;
    let volume = format!("steward-test-{}", spec.labels[label::SANDBOX]);
    bench.engine.create_volume(&bench.volume(&volume)).await.unwrap();
    let id = bench.engine.create(&spec).await.unwrap();
    let names: Vec<_> =
        bench.engine.list_volumes(&bench.installation).await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, std::slice::from_ref(&volume));
    let refused = bench.engine.remove_volume(&volume).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    bench.engine.remove(Handle::Id(&id)).await.unwrap();
    assert_eq!(bench.engine.remove_volume(&volume).await.unwrap(), Removal::Removed);
    assert_eq!(bench.engine.remove_volume(&volume).await.unwrap(), Removal::Absent);
}

pub async fn a_volume_with_other_labels_is_a_conflict(bench: &Bench) {
    let name = format!("steward-test-{}", SandboxId::new());
    bench.engine.create_volume(&bench.volume(&name)).await.unwrap();
    let foreign =
        VolumeSpec { name, labels: [(label::INSTALLATION.to_owned(), "another".to_owned())].into() };
    let create = bench.engine.create_volume(&foreign).await;
    assert!(matches!(create, Err(Error::Conflict(_))), "{create:?}");
}

pub async fn other_installations_are_not_listed(bench: &Bench) {
    let id = bench.engine.create(&bench.spec().await).await.unwrap();
    assert!(bench.engine.list("steward-test-unused").await.unwrap().is_empty());
    assert!(bench.engine.list_volumes("steward-test-unused").await.unwrap().is_empty());
    bench.engine.remove(Handle::Id(&id)).await.unwrap();
}

pub async fn concurrent_removals_agree_in_the_end(bench: &Bench) {
    let id = bench.engine.create(&bench.spec().await).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    let remove = || bench.engine.remove(Handle::Id(&id));
    let (a, b, c) = tokio::join!(remove(), remove(), remove());
    let answers = [a.unwrap(), b.unwrap(), c.unwrap()];
    assert!(answers.contains(&Removal::Removed), "{answers:?}");
    // A removal may still be in progress: reads until the container is absent.
    while bench.state(Handle::Id(&id)).await.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(remove().await.unwrap(), Removal::Absent);
}
