//! Use cases: they make ids and times, own transactions, and decide what happens to what failed.

pub mod custodian;
pub mod execs;
pub mod files;
pub mod lifecycle;
pub mod making;
pub mod provision;
pub mod removal;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use moka::future::Cache;
use svc_core::{
    data::{
        pg::{Pool, Subject},
        wake::Wake,
    },
    id::SandboxId,
    run::{clock::SharedClock, lifecycle::Lifecycle},
};

use crate::{
    client::guest::{self, Guest},
    config::{CreateConfig, LifetimesConfig},
    domain::{
        VolumeId,
        sandbox::{Container, Owner, Sandbox},
        spec::{Identity, Places, Shape},
    },
    engine::{EngineInfo, SharedEngine},
    error::{Error, Result},
    run_dirs::RunDirectories,
};

/// Connections to guests kept at most, and for how long without use.
const GUESTS: u64 = 4_096;
const GUEST_IDLE: Duration = Duration::from_secs(600);

/// What the use cases are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this installation.
    pub installation: String,
    /// The guest's program on the engine's host.
    pub guest: PathBuf,
    /// What sandboxes are made of.
    pub shape: Shape,
    /// How they are made.
    pub create: CreateConfig,
    /// How long things last.
    pub lifetimes: LifetimesConfig,
    /// Share of the host's memory that may be promised to sandboxes.
    pub overcommit: f64,
}

/// What every use case needs.
#[derive(Debug)]
pub struct Context {
    /// Postgres.
    pub pool: Pool,
    /// The time.
    pub clock: SharedClock,
    /// Hints that something changed.
    pub wake: Wake,
    /// The process's tasks.
    pub lifecycle: Lifecycle,
    /// What it is told.
    pub settings: Settings,
    /// The engine that this process serves, once it has said who it is.
    pub served: OnceLock<Served>,
}

/// A context that use cases share.
pub type Shared = Arc<Context>;

/// The engine that this process serves, and what belongs to it on its host.
#[derive(Debug)]
pub struct Served {
    /// Who it is.
    pub info: EngineInfo,
    /// The engine, behind its bounds.
    pub engine: SharedEngine,
    /// Its run directories.
    pub run_dirs: RunDirectories,
    guests: Cache<SandboxId, Guest>,
}

impl Served {
    /// The engine `info`, with its run directories.
    #[must_use]
    pub fn new(info: EngineInfo, engine: SharedEngine, run_dirs: RunDirectories) -> Self {
        let guests = Cache::builder().max_capacity(GUESTS).time_to_idle(GUEST_IDLE).build();
        Self { info, engine, run_dirs, guests }
    }

    /// A connection to the guest of a running sandbox. Which guest answers is checked by every keyed call.
    ///
    /// # Errors
    /// [`guest::Error`] if it cannot be reached.
    pub async fn guest(&self, id: SandboxId, container: &Container) -> Result<Guest, guest::Error> {
        if let Some(guest) = self.guests.get(&id).await {
            return Ok(guest);
        }
        let guest = Guest::connect(&self.run_dirs.path(&container.run_dir)).await?;
        self.guests.insert(id, guest.clone()).await;
        Ok(guest)
    }

    /// Checks that the daemon at the engine's address is the engine: another one would show everything as absent.
    ///
    /// # Errors
    /// [`Error::OtherEngine`] if it is another; [`Error::Engine`] if it does not say.
    pub async fn still_itself(&self) -> Result<()> {
        match self.engine.info().await?.id {
            id if id == self.info.id => Ok(()),
            id => Err(Error::OtherEngine(id)),
        }
    }

    /// Connects anew next time.
    pub async fn forget_guest(&self, id: SandboxId) {
        self.guests.invalidate(&id).await;
    }
}

impl Context {
    /// Whether the process was asked to stop: nobody shall be kept waiting any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lifecycle.soft().is_cancelled()
    }

    /// Until the process is asked to stop.
    pub async fn stopping(&self) {
        self.lifecycle.soft().cancelled().await;
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The engine that this process serves.
    ///
    /// # Errors
    /// [`Error::EngineAway`] until it has said who it is.
    pub fn served(&self) -> Result<&Served> {
        self.served.get().ok_or(Error::EngineAway)
    }

    /// The engine of a sandbox.
    ///
    /// # Errors
    /// [`Error::Elsewhere`] if another process serves it.
    pub fn served_for(&self, sandbox: &Sandbox) -> Result<&Served> {
        match self.served()? {
            served if served.info.id == sandbox.engine => Ok(served),
            _ => Err(Error::Elsewhere(sandbox.engine.clone())),
        }
    }

    /// Who the container of a sandbox is.
    #[must_use]
    pub fn identity(&self, sandbox: &Sandbox, container: &Container) -> Identity {
        Identity {
            installation: self.settings.installation.clone(),
            engine: sandbox.engine.clone(),
            sandbox: sandbox.id,
            generation: container.generation,
        }
    }

    /// What is mounted into the container of a sandbox.
    #[must_use]
    pub fn places(&self, served: &Served, sandbox: &Sandbox, container: &Container) -> Places {
        Places {
            guest: self.settings.guest.clone(),
            run_dir: served.run_dirs.path(&container.run_dir),
            volume: volume_name(sandbox.volume),
        }
    }

    /// Tells who waits for a sandbox that it changed.
    pub async fn tell(&self, id: SandboxId) {
        self.wake.publish(&sandbox_topic(id), b"").await;
    }

    /// Tells the workers of an engine that there is something to do.
    pub async fn tell_workers(&self, engine: &str) {
        self.wake.publish(&engine_topic(engine), b"").await;
    }
}

/// Name of a workspace's volume.
#[must_use]
pub fn volume_name(id: VolumeId) -> String {
    format!("steward-workspace-{id}")
}

/// Where changes of a sandbox are told.
#[must_use]
pub fn sandbox_topic(id: SandboxId) -> String {
    format!("sandbox/{id}")
}

/// Where work for an engine is told.
#[must_use]
pub fn engine_topic(engine: &str) -> String {
    format!("sandbox.engine/{engine}")
}

/// Whose data a sandbox's is.
#[must_use]
pub const fn subject(owner: Owner) -> Subject {
    Subject::Session { account: owner.account, session: owner.session }
}
