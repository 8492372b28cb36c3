//! Image and resources of sandboxes.

use serde::{Deserialize, Serialize};

/// Image and resources of a sandbox. A session claims a warm sandbox only of the configured shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Image by name or digest.
    pub image: String,
    /// OCI runtime; empty: the engine's default.
    pub runtime: String,
    /// Thousandths of a CPU.
    pub cpu_millis: i32,
    /// Bytes of memory; swap is not added.
    pub memory_bytes: i64,
    pub network: Network,
}

/// Network access of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// None: the guest's socket is the only connection.
    None,
}
