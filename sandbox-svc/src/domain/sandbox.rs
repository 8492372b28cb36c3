//! A sandbox: its record, its states, and the reasons for its deletion.

use chrono::{DateTime, Utc};
use svc_core::id::{AccountId, SandboxId, SessionId};

use super::{VolumeId, pool::Slot, shape::Shape};

/// State of a sandbox: `requested → creating → running → deleting → gone | failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted; waits for a worker of its engine.
    Requested,
    /// A worker creates its container.
    Creating,
    /// Its guest has answered.
    Running,
    /// Its removal is committed.
    Deleting,
    /// Final: the engine confirmed that its container is absent.
    Gone,
    /// Final: it never ran, and the engine confirmed that its container is absent.
    Failed,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Requested, Self::Creating, Self::Running, Self::Deleting, Self::Gone, Self::Failed];

    /// Whether no other state follows.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Gone | Self::Failed => true,
            Self::Requested | Self::Creating | Self::Running | Self::Deleting => false,
        }
    }

    /// Returns whether the sandbox may still run later.
    pub const fn is_pending(self) -> bool {
        match self {
            Self::Requested | Self::Creating => true,
            Self::Running | Self::Deleting | Self::Gone | Self::Failed => false,
        }
    }
}

/// Why a sandbox is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The caller asked for it.
    Deleted,
    /// It was unused until its deadline, or reached its longest life.
    Expired,
    /// Its session or account is being erased.
    Erased,
    /// The pool retired it: it was too old, was replaced or surplus, or a session's sandbox needed its
    /// memory.
    Retired,
    /// It was not created in time.
    CreateTimeout,
    /// The engine has no such image.
    ImageMissing,
    /// The engine refused to create or start its container.
    EngineRefused,
    /// Its guest did not answer in time.
    GuestSilent,
    /// The engine lost its container.
    ContainerLost,
    ContainerExited,
    /// Its guest restarted and lost its records of calls.
    GuestRestarted,
    /// Its container was found without a row.
    Orphaned,
}

impl Cause {
    /// Its name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "DELETED",
            Self::Expired => "EXPIRED",
            Self::Erased => "ERASED",
            Self::Retired => "RETIRED",
            Self::CreateTimeout => "CREATE_TIMEOUT",
            Self::ImageMissing => "IMAGE_MISSING",
            Self::EngineRefused => "ENGINE_REFUSED",
            Self::GuestSilent => "GUEST_SILENT",
            Self::ContainerLost => "CONTAINER_LOST",
            Self::ContainerExited => "CONTAINER_EXITED",
            Self::GuestRestarted => "GUEST_RESTARTED",
            Self::Orphaned => "ORPHANED",
        }
    }

    /// Whether a sandbox that never ran ends as failed for this cause, not as gone.
    pub const fn is_failure(self) -> bool {
        match self {
            Self::CreateTimeout
            | Self::ImageMissing
            | Self::EngineRefused
            | Self::GuestSilent
            | Self::ContainerLost
            | Self::ContainerExited
            | Self::GuestRestarted => true,
            Self::Deleted | Self::Expired | Self::Erased | Self::Retired | Self::Orphaned => false,
        }
    }
}

/// The account and session that a sandbox or a workspace belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub account: AccountId,
    pub session: SessionId,
}

/// Restricts a list of sandboxes; `None` accepts every value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    pub session: Option<SessionId>,
    pub state: Option<State>,
}

/// The container that a sandbox has, had, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Generation of the sandbox when its creation was committed; part of the container's name.
    pub generation: i64,
    /// Name of its run directory. Without the directory the engine neither creates nor starts the container.
    pub run_dir: String,
    /// Id of its image.
    pub image: String,
    /// Full id, once the engine reported it.
    pub id: Option<String>,
    /// The guest instance that answered in it.
    pub instance: Option<String>,
    /// Time until which an unconfirmed create may still be under way at the engine.
    pub fence_until: DateTime<Utc>,
}

/// The record of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SandboxId,
    /// None while it waits in the pool, and for an orphan.
    pub owner: Option<Owner>,
    /// Id of the engine it lives on.
    pub engine: String,
    pub state: State,
    /// Version of the record. Every transition and a claim from the pool add one; a call that uses the
    /// sandbox adds none.
    pub generation: i64,
    /// Fencing token of the worker that creates or removes it.
    pub epoch: i64,
    /// Whether it was created for the pool.
    pub warm: bool,
    /// Its place in the pool, until it is claimed or retired.
    pub slot: Option<Slot>,
    /// When it retires unless a session claims it.
    pub retire_at: Option<DateTime<Utc>>,
    pub shape: Shape,
    pub volume: VolumeId,
    pub container: Option<Container>,
    /// Why it is deleted.
    pub cause: Option<Cause>,
    pub created_at: DateTime<Utc>,
    /// When its guest first answered.
    pub running_at: Option<DateTime<Utc>>,
    pub last_active_at: DateTime<Utc>,
    /// Time by which it must have left its state.
    pub deadline_at: DateTime<Utc>,
    /// When it became final.
    pub ended_at: Option<DateTime<Utc>>,
}
