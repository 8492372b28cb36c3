//! The rules of sandboxes, without I/O. A function that needs the time gets it as an argument.

pub mod exec;
pub mod files;
pub mod host;
pub mod limits;
pub mod observed;
pub mod pool;
pub mod reconcile;
pub mod residue;
pub mod sandbox;
pub mod shape;
pub mod spec;
pub mod time;
pub mod transition;

svc_core::define_id! {
    /// Id of a workspace's volume.
    VolumeId,
}
