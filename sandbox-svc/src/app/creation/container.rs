//! The steps at the engine that lead from a committed creation to a guest that answers. Each step may be
//! repeated after a lost answer.

use std::time::Duration;

use svc_core::run::backoff::Backoff;
use tokio::time::{Instant, sleep};

use super::Abort;
use crate::{
    app::{Deps, served::Served},
    client::guest::Guest,
    domain::{
        sandbox::{Cause, Container, Sandbox},
        spec::{ContainerSpec, Identity, MountSources, VolumeSpec, volume_name},
    },
    engine::{self, ContainerId, ContainerState, Handle, Observed},
};

/// Delay before an engine that did not answer is asked again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Number of refused starts after which the sandbox is given up. A transient refusal usually ends before.
const MAX_START_REFUSALS: u32 = 3;
/// Time between two connection attempts to a new guest.
const GUEST_POLL: Duration = Duration::from_millis(10);
/// Failed connection attempts after which the guest's container is read again, because it may have exited.
const ATTEMPTS_PER_OBSERVE: u32 = 50;

/// The steps of one sandbox.
pub(super) struct Steps<'a> {
    pub(super) deps: &'a Deps,
    pub(super) served: &'a Served,
    pub(super) sandbox: &'a Sandbox,
    pub(super) container: &'a Container,
}

impl Steps<'_> {
    fn spec(&self) -> ContainerSpec {
        let Self { deps, served, sandbox, container } = self;
        let identity = Identity::of(&deps.settings.installation, sandbox, container);
        let mounts = MountSources {
            guest: deps.settings.guest.clone(),
            run_dir: served.run_dirs.path(&container.run_dir),
            volume: volume_name(sandbox.volume),
        };
        ContainerSpec::of(&identity, &sandbox.shape, &container.image, &mounts, sandbox.created_at)
    }

    /// Waits before the attempt that follows `failures` failed ones. Gives the sandbox up once its deadline
    /// has passed.
    async fn wait_to_retry(&self, failures: u32) -> Result<(), Abort> {
        // The delay has no jitter, because one engine has few workers.
        sleep(RETRY.delay(failures, 0.5)).await;
        match self.deps.now() < self.sandbox.deadline_at {
            true => Ok(()),
            false => Err(Abort::GiveUp(Cause::CreateTimeout)),
        }
    }

    pub(super) async fn create_volume(&self) -> Result<(), Abort> {
        let spec = VolumeSpec::of(&self.deps.settings.installation, self.sandbox);
        for failures in 1.. {
            match self.served.engine.create_volume(&spec).await {
                Ok(()) => return Ok(()),
                Err(engine::Error::Conflict(_) | engine::Error::Refused { .. } | engine::Error::NotFound) => {
                    return Err(Abort::GiveUp(Cause::EngineRefused));
                }
                Err(error) => tracing::debug!(%error, volume = spec.name, "volume not created yet"),
            }
            self.wait_to_retry(failures).await?;
        }
        Ok(())
    }

    /// Creates the container, or adopts the one that an earlier attempt created.
    pub(super) async fn create_container(&self) -> Result<ContainerId, Abort> {
        let spec = self.spec();
        for failures in 1.. {
            let unknown = match self.served.engine.create(&spec).await {
                Ok(id) => return Ok(id),
                Err(engine::Error::NotFound) => return Err(Abort::GiveUp(Cause::ImageMissing)),
                Err(engine::Error::Refused { status, message }) => {
                    tracing::warn!(status, message, container = spec.name, "engine refused a container");
                    return Err(Abort::GiveUp(Cause::EngineRefused));
                }
                // The name is taken, or the outcome is unknown: reads the container with this name to see
                // whether an attempt created it.
                Err(unknown) => unknown,
            };
            match self.served.engine.observe(Handle::Name(&spec.name)).await {
                Observed::Present(found) if found.matches(&spec) => return Ok(found.id),
                Observed::Present(found) => {
                    tracing::error!(
                        container = %found.id,
                        name = spec.name,
                        "another container has the sandbox's name"
                    );
                    return Err(Abort::GiveUp(Cause::EngineRefused));
                }
                Observed::Absent | Observed::Unknown(_) => {
                    tracing::debug!(error = %unknown, container = spec.name, "container not created yet");
                }
            }
            self.wait_to_retry(failures).await?;
        }
        Err(Abort::GiveUp(Cause::CreateTimeout))
    }

    pub(super) async fn start(&self, id: &ContainerId) -> Result<(), Abort> {
        let mut refusals = 0;
        for failures in 1.. {
            match self.served.engine.start(id).await {
                Ok(()) => return Ok(()),
                Err(engine::Error::NotFound) => return Err(Abort::GiveUp(Cause::ContainerLost)),
                Err(error @ (engine::Error::Refused { .. } | engine::Error::Failed { .. })) => {
                    refusals += 1;
                    tracing::warn!(%error, container = %id, refusals, "engine did not start a container");
                }
                Err(error) => tracing::debug!(%error, container = %id, "container not started yet"),
            }
            match self.served.engine.observe(Handle::Id(id)).await {
                Observed::Present(found) if found.state == ContainerState::Running => return Ok(()),
                Observed::Present(found) if found.state == ContainerState::Exited && refusals == 0 => {
                    return Err(Abort::GiveUp(Cause::ContainerExited));
                }
                Observed::Absent => return Err(Abort::GiveUp(Cause::ContainerLost)),
                Observed::Present(_) | Observed::Unknown(_) if refusals < MAX_START_REFUSALS => {}
                Observed::Present(_) | Observed::Unknown(_) => {
                    return Err(Abort::GiveUp(Cause::EngineRefused));
                }
            }
            self.wait_to_retry(failures).await?;
        }
        Err(Abort::GiveUp(Cause::CreateTimeout))
    }

    /// Waits until the guest answers, and returns its instance.
    pub(super) async fn await_guest(&self, id: &ContainerId) -> Result<String, Abort> {
        let run_dir = self.served.run_dirs.path(&self.container.run_dir);
        let until = Instant::now() + self.deps.settings.create.guest_deadline;
        for attempts in 1.. {
            let (sandbox, generation) = (self.sandbox.id, self.container.generation);
            let instance = async { Guest::connect(&run_dir).await?.instance(sandbox, generation).await };
            match instance.await {
                Ok(Some(instance)) => return Ok(instance),
                Ok(None) => return Err(Abort::GiveUp(Cause::GuestSilent)),
                Err(error) => {
                    tracing::trace!(%error, sandbox.id = %self.sandbox.id, "guest does not answer yet");
                }
            }
            if attempts % ATTEMPTS_PER_OBSERVE == 0
                && let Observed::Present(found) = self.served.engine.observe(Handle::Id(id)).await
                && found.state == ContainerState::Exited
            {
                return Err(Abort::GiveUp(Cause::ContainerExited));
            }
            if Instant::now() >= until {
                return Err(Abort::GiveUp(Cause::GuestSilent));
            }
            sleep(GUEST_POLL).await;
        }
        Err(Abort::GiveUp(Cause::GuestSilent))
    }
}
