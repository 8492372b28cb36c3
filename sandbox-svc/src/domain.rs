//! What a sandbox is and may become: pure, time comes in.

pub mod exec;
pub mod host;
pub mod observed;
pub mod pool;
pub mod reconcile;
pub mod residue;
pub mod sandbox;
pub mod spec;

svc_core::define_id! {
    /// One workspace volume.
    VolumeId,
}
