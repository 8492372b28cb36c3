//! The engine that this process serves, known once it has reported its id.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use moka::future::Cache;
use svc_core::{
    data::pg::{Pool, Tx},
    id::SandboxId,
    run::clock::SharedClock,
};

use crate::{
    client::guest::{self, Guest},
    domain::sandbox::{Container, Sandbox},
    engine::{EngineInfo, SharedEngine},
    error::{Error, Result},
    run_dirs::RunDirectories,
    store::engines,
};

/// Maximum cached connections to guests, because each needs two file descriptors.
const MAX_GUESTS: u64 = 4_096;
const GUEST_IDLE: Duration = Duration::from_secs(600);

/// An engine, its run directories, and connections to its guests.
#[derive(Debug)]
pub struct Served {
    pub info: EngineInfo,
    /// The engine behind its limiter.
    pub engine: SharedEngine,
    pub run_dirs: RunDirectories,
    guests: Cache<SandboxId, Guest>,
}

impl Served {
    pub fn new(info: EngineInfo, engine: SharedEngine, run_dirs: RunDirectories) -> Self {
        let guests = Cache::builder().max_capacity(MAX_GUESTS).time_to_idle(GUEST_IDLE).build();
        Self { info, engine, run_dirs, guests }
    }

    /// Returns a connection to the guest of a running sandbox. Each keyed call checks which instance answers.
    ///
    /// # Errors
    /// The errors of [`Guest::connect`].
    pub async fn guest(&self, id: SandboxId, container: &Container) -> Result<Guest, guest::Error> {
        if let Some(guest) = self.guests.get(&id).await {
            return Ok(guest);
        }
        let guest = Guest::connect(&self.run_dirs.path(&container.run_dir)).await?;
        self.guests.insert(id, guest.clone()).await;
        Ok(guest)
    }

    /// Drops the cached connection, so that the next call connects again.
    pub async fn forget_guest(&self, id: SandboxId) {
        self.guests.invalidate(&id).await;
    }

    /// Checks that the daemon at the engine's address is still this engine: another daemon would report every
    /// container as absent.
    ///
    /// # Errors
    /// [`Error::OtherEngine`] if another daemon answers; [`Error::Engine`] if none does.
    pub async fn check_identity(&self) -> Result<()> {
        match self.engine.info().await?.id {
            id if id == self.info.id => Ok(()),
            id => Err(Error::OtherEngine(id)),
        }
    }

    /// Records that the engine answered this replica.
    ///
    /// # Errors
    /// [`Error::OtherRunDirectories`] if sandboxes of the engine have their run directories in another place.
    /// This replica could not revoke those, so its removals would stop no create or start.
    pub async fn register(&self, pool: &Pool, clock: &SharedClock) -> Result<()> {
        let base = self.run_dirs.base().display().to_string();
        let mut tx = Tx::system(pool).await?;
        if !engines::register(&mut tx, &self.info, &base, clock.now()).await? {
            return Err(Error::OtherRunDirectories(base));
        }
        Ok(tx.commit().await?)
    }
}

/// The served engine, shared by the use cases. Empty until the engine has reported its id.
#[derive(Debug, Clone, Default)]
pub struct EngineSlot(Arc<OnceLock<Served>>);

impl EngineSlot {
    /// Sets the engine and returns it. If one is set already, returns that one and drops `served`.
    pub fn fill(&self, served: Served) -> &Served {
        self.0.get_or_init(|| served)
    }

    /// Returns the served engine.
    ///
    /// # Errors
    /// [`Error::EngineUnknown`] until it has reported its id.
    pub fn get(&self) -> Result<&Served> {
        self.0.get().ok_or(Error::EngineUnknown)
    }

    /// Returns the engine of a sandbox.
    ///
    /// # Errors
    /// [`Error::ServedElsewhere`] if another process serves it.
    pub fn of(&self, sandbox: &Sandbox) -> Result<&Served> {
        match self.get()? {
            served if served.info.id == sandbox.engine => Ok(served),
            _ => Err(Error::ServedElsewhere(sandbox.engine.clone())),
        }
    }

    /// Returns the guest of a sandbox.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it has no container; the errors of [`Self::of`] and of the connection.
    pub async fn guest(&self, sandbox: &Sandbox) -> Result<Guest> {
        let container = sandbox.container.as_ref().ok_or(Error::NotRunning(sandbox.state))?;
        Ok(self.of(sandbox)?.guest(sandbox.id, container).await?)
    }
}
