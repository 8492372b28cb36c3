//! All SQL of sandbox-svc. Every function takes a connection, so the caller decides what is one transaction.
//! Where a caller of the API names a row, the query also compares the account.

pub mod engines;
pub mod erasure;
pub mod execs;
pub mod pool;
pub mod queue;
pub mod sandboxes;
pub mod volumes;

use crate::domain::{
    exec::ExecState,
    pool::PoolState,
    sandbox::{Cause, State},
    shape::Network,
};

/// The migrations of this service's schema.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

svc_core::pg_enum!(State as "sandbox_state" {
    Requested => "requested",
    Creating => "creating",
    Running => "running",
    Deleting => "deleting",
    Gone => "gone",
    Failed => "failed",
});
svc_core::pg_enum!(Cause as "sandbox_cause" {
    Deleted => "deleted",
    Expired => "expired",
    Erased => "erased",
    Retired => "retired",
    CreateTimeout => "create_timeout",
    ImageMissing => "image_missing",
    EngineRefused => "engine_refused",
    GuestSilent => "guest_silent",
    ContainerLost => "container_lost",
    ContainerExited => "container_exited",
    GuestRestarted => "guest_restarted",
    Orphaned => "orphaned",
});
svc_core::pg_enum!(PoolState as "pool_state" { Filling => "filling", Available => "available" });
svc_core::pg_enum!(Network as "network_policy" { None => "none" });
svc_core::pg_enum!(ExecState as "exec_state" {
    Running => "running",
    Finished => "finished",
    Abandoned => "abandoned",
    InDoubt => "in_doubt",
});
