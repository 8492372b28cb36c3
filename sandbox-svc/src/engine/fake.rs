//! A container engine in memory, for tests: it passes [`super::contract`], and a test can make it stall,
//! fail, lose a reply, or carry out a failed create later.
//!
//! It checks bind sources on the real filesystem, as the daemon does, because tests revoke run directories.
//! The hook given to [`FakeEngine::on_start`] decides what runs in a container.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use svc_core::id::new_id;

use super::{
    Container, ContainerEngine, ContainerId, ContainerState, EngineInfo, Error, Handle, Observed, Removal,
    Volume,
};
use crate::domain::spec::{ContainerSpec, MountSource, VolumeSpec, label};

/// The calls of an engine, for [`FakeEngine::fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Info,
    Image,
    Create,
    Start,
    Observe,
    Remove,
    List,
    CreateVolume,
    RemoveVolume,
    ListVolumes,
}

/// A fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call never returns and does nothing.
    Stall,
    /// The call fails with this status and does nothing.
    Fail(u16),
    /// The call is carried out, but its answer is lost.
    LoseReply,
    /// The connection breaks, and the call is carried out only when [`FakeEngine::arrive`] is called.
    Late,
}

/// Runs when a container starts, with its spec. The returned value is dropped when the container ends.
pub type StartHook = Arc<dyn Fn(&ContainerSpec) -> Box<dyn Send> + Send + Sync>;

pub struct FakeEngine {
    id: String,
    world: Mutex<World>,
    on_start: StartHook,
}

#[derive(Default)]
struct World {
    containers: BTreeMap<ContainerId, Inside>,
    volumes: BTreeMap<String, Volume>,
    images: HashMap<String, String>,
    faults: HashMap<Verb, VecDeque<Fault>>,
    late: Vec<ContainerSpec>,
    calls: HashMap<Verb, usize>,
}

struct Inside {
    seen: Container,
    spec: ContainerSpec,
    running: Option<Box<dyn Send>>,
}

impl fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEngine").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FakeEngine {
    pub fn new(id: &str) -> Arc<Self> {
        Self::on_start(id, Arc::new(|_| Box::new(())))
    }

    /// Builds an engine that calls `hook` at each start of a container.
    pub fn on_start(id: &str, hook: StartHook) -> Arc<Self> {
        Arc::new(Self { id: id.to_owned(), world: Mutex::default(), on_start: hook })
    }

    pub fn add_image(&self, name: &str, id: &str) {
        self.lock().images.insert(name.to_owned(), id.to_owned());
    }

    /// Adds a fault for a call of `verb`; earlier faults of the verb come first.
    pub fn fault(&self, verb: Verb, fault: Fault) {
        self.lock().faults.entry(verb).or_default().push_back(fault);
    }

    /// Carries out the creates that [`Fault::Late`] delayed, as a daemon does that resumes after a stall.
    /// Returns the number of creates that succeeded.
    pub fn arrive(&self) -> usize {
        let mut world = self.lock();
        let late = std::mem::take(&mut world.late);
        late.into_iter().filter(|spec| world.create(spec).is_ok()).count()
    }

    /// Marks a container as exited.
    pub fn exit(&self, id: &ContainerId) {
        if let Some(inside) = self.lock().containers.get_mut(id) {
            inside.seen.state = ContainerState::Exited;
            inside.running = None;
        }
    }

    /// Removes a container, as if another program than the service had done it.
    pub fn vanish(&self, id: &ContainerId) {
        self.lock().containers.remove(id);
    }

    /// Lists the containers of every installation.
    pub fn containers(&self) -> Vec<Container> {
        self.lock().containers.values().map(|inside| inside.seen.clone()).collect()
    }

    pub fn calls(&self, verb: Verb) -> usize {
        self.lock().calls.get(&verb).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act`, or applies the verb's next fault.
    async fn call<T>(
        &self,
        verb: Verb,
        act: impl FnOnce(&mut World) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let fault = {
            let mut world = self.lock();
            *world.calls.entry(verb).or_default() += 1;
            world.faults.get_mut(&verb).and_then(VecDeque::pop_front)
        };
        match fault {
            None => act(&mut self.lock()),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Fail(404)) => Err(Error::NotFound),
            Some(Fault::Fail(status @ 400..=499)) => {
                Err(Error::Refused { status, message: "a fault of the test".into() })
            }
            Some(Fault::Fail(status)) => Err(Error::Failed { status, message: "a fault of the test".into() }),
            Some(Fault::LoseReply) => {
                // The caller does not learn the result.
                let _ = act(&mut self.lock());
                Err(lost())
            }
            Some(Fault::Late) => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::Unreachable(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)))
}

impl World {
    fn find(&self, handle: Handle<'_>) -> Option<&Container> {
        self.containers.values().map(|inside| &inside.seen).find(|seen| match handle {
            Handle::Id(id) => seen.id == *id,
            Handle::Name(name) => seen.name == name,
        })
    }

    fn create(&mut self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        check_binds(spec)?;
        if !self.images.values().any(|image| *image == spec.image) {
            return Err(Error::NotFound);
        }
        if self.find(Handle::Name(&spec.name)).is_some() {
            return Err(Error::Conflict("the name is taken".into()));
        }
        let id = ContainerId(format!("{:064x}", new_id().as_u128()));
        let mut mounts = spec.mounts.clone();
        mounts.sort();
        let asked_at =
            spec.labels.get(label::CREATED_AT).and_then(|at| DateTime::parse_from_rfc3339(at).ok());
        let seen = Container {
            id: id.clone(),
            name: spec.name.clone(),
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            mounts,
            state: ContainerState::Created,
            created_at: asked_at.map(|at| at.with_timezone(&Utc)),
        };
        for mount in &spec.mounts {
            if let MountSource::Volume(name) = &mount.source {
                let unlabelled = Volume { name: name.clone(), labels: BTreeMap::new() };
                self.volumes.entry(name.clone()).or_insert(unlabelled);
            }
        }
        self.containers.insert(id.clone(), Inside { seen, spec: spec.clone(), running: None });
        Ok(id)
    }

    fn uses(&self, volume: &str) -> bool {
        let named = |source: &MountSource| matches!(source, MountSource::Volume(name) if name == volume);
        self.containers.values().any(|inside| inside.seen.mounts.iter().any(|mount| named(&mount.source)))
    }
}

fn check_binds(spec: &ContainerSpec) -> Result<(), Error> {
    for mount in &spec.mounts {
        if let MountSource::Bind(path) = &mount.source
            && !path.exists()
        {
            let message = format!("bind source {} does not exist", path.display());
            return Err(Error::Refused { status: 400, message });
        }
    }
    Ok(())
}

#[async_trait]
impl ContainerEngine for FakeEngine {
    async fn info(&self) -> Result<EngineInfo, Error> {
        let info = EngineInfo { id: self.id.clone(), memory_bytes: 16 << 30, root: "/var/lib/fake".into() };
        self.call(Verb::Info, |_| Ok(info)).await
    }

    async fn image(&self, name: &str) -> Observed<String> {
        let find = |world: &mut World| world.images.get(name).cloned().ok_or(Error::NotFound);
        self.call(Verb::Image, find).await.into()
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, Error> {
        if self.lock().faults.get(&Verb::Create).and_then(VecDeque::front) == Some(&Fault::Late) {
            self.lock().late.push(spec.clone());
        }
        self.call(Verb::Create, |world| world.create(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Error> {
        let start = |world: &mut World| {
            let inside = world.containers.get_mut(id).ok_or(Error::NotFound)?;
            if inside.seen.state == ContainerState::Running {
                return Ok(());
            }
            // Each start mounts the sources again, so it fails if one is missing. Docker answers 400 or 500,
            // depending on the release.
            check_binds(&inside.spec)?;
            inside.running = Some((self.on_start)(&inside.spec));
            inside.seen.state = ContainerState::Running;
            Ok(())
        };
        self.call(Verb::Start, start).await
    }

    async fn observe(&self, handle: Handle<'_>) -> Observed<Container> {
        let look = |world: &mut World| world.find(handle).cloned().ok_or(Error::NotFound);
        self.call(Verb::Observe, look).await.into()
    }

    async fn remove(&self, handle: Handle<'_>) -> Result<Removal, Error> {
        let remove = |world: &mut World| {
            let id = world.find(handle).map(|seen| seen.id.clone());
            Ok(removal(id.and_then(|id| world.containers.remove(&id)).is_some()))
        };
        self.call(Verb::Remove, remove).await
    }

    async fn list(&self, installation: &str) -> Result<Vec<Container>, Error> {
        let list = |world: &mut World| {
            let all = world.containers.values().map(|inside| inside.seen.clone());
            Ok(all.filter(|seen| belongs(&seen.labels, installation)).collect())
        };
        self.call(Verb::List, list).await
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        let create = |world: &mut World| {
            let made = Volume { name: spec.name.clone(), labels: spec.labels.clone() };
            match world.volumes.entry(spec.name.clone()).or_insert(made).labels == spec.labels {
                true => Ok(()),
                false => Err(Error::Conflict("the volume has other labels".into())),
            }
        };
        self.call(Verb::CreateVolume, create).await
    }

    async fn remove_volume(&self, name: &str) -> Result<Removal, Error> {
        let remove = |world: &mut World| {
            if world.uses(name) {
                return Err(Error::Conflict("the volume is in use".into()));
            }
            Ok(removal(world.volumes.remove(name).is_some()))
        };
        self.call(Verb::RemoveVolume, remove).await
    }

    async fn list_volumes(&self, installation: &str) -> Result<Vec<Volume>, Error> {
        let list = |world: &mut World| {
            let all = world.volumes.values().filter(|volume| belongs(&volume.labels, installation));
            Ok(all.cloned().collect())
        };
        self.call(Verb::ListVolumes, list).await
    }
}

const fn removal(existed: bool) -> Removal {
    if existed { Removal::Removed } else { Removal::Absent }
}

fn belongs(labels: &BTreeMap<String, String>, installation: &str) -> bool {
    labels.get(label::INSTALLATION).is_some_and(|label| label == installation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract::Bench;

    fn bench() -> (Bench, ()) {
        let engine = FakeEngine::new("E");
        engine.add_image("image", "sha256:1");
        // Any file serves as the guest: the program never runs.
        (Bench::new(engine, "image", "/proc/self/exe".into(), "test"), ())
    }

    crate::engine_contract!(bench());

    #[tokio::test]
    async fn a_lost_reply_creates_and_a_late_create_waits() {
        let engine = FakeEngine::new("E");
        engine.add_image("image", "sha256:1");
        let bench = Bench::new(engine.clone(), "image", "/proc/self/exe".into(), "test");
        engine.fault(Verb::Create, Fault::LoseReply);
        engine.fault(Verb::Create, Fault::Late);
        for expected in [1, 1] {
            assert!(matches!(engine.create(&bench.spec().await).await, Err(Error::Unreachable(_))));
            assert_eq!(engine.containers().len(), expected);
        }
        assert_eq!(engine.arrive(), 1);
        assert_eq!(engine.containers().len(), 2);
    }

    #[tokio::test]
    async fn a_late_create_is_refused_without_its_run_directory() {
        let engine = FakeEngine::new("E");
        engine.add_image("image", "sha256:1");
        let bench = Bench::new(engine.clone(), "image", "/proc/self/exe".into(), "test");
        engine.fault(Verb::Create, Fault::Late);
        let spec = bench.spec().await;
        assert!(engine.create(&spec).await.is_err());
        std::fs::remove_dir(bench.base.path().join(&spec.labels[label::SANDBOX])).unwrap();
        assert_eq!(engine.arrive(), 0);
    }
}
