//! The owners of data, as purge-svc calls them. Nobody else calls them in this way.

use crate::domain::custodian::Custodian;

pub mod client;
#[cfg(feature = "test-util")]
pub mod contract;
#[cfg(feature = "test-util")]
pub mod fake;

pub use self::client::{Call, Error, Frozen, Objects, ReadBack, Remote};

/// Every owner of data. There is no roster with fewer: a job that leaves one out has erased nothing.
#[derive(Debug, Clone)]
pub struct Roster {
    /// chat-svc.
    pub chat: Remote,
    /// registry-svc.
    pub registry: Remote,
    /// sandbox-svc.
    pub sandbox: Remote,
}

impl Roster {
    /// One of them.
    #[must_use]
    pub const fn get(&self, custodian: Custodian) -> &Remote {
        match custodian {
            Custodian::Chat => &self.chat,
            Custodian::Registry => &self.registry,
            Custodian::Sandbox => &self.sandbox,
        }
    }
}
