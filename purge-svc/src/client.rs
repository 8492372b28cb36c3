//! The other services as purge-svc calls them.

pub mod custodian;

use self::custodian::CustodianClient;
use crate::domain::custodian::Custodian;

/// A client of every custodian. The type allows no roster with fewer, because a job that leaves one out must
/// not count as an erasure.
#[derive(Debug, Clone)]
pub struct Roster {
    pub chat: CustodianClient,
    pub registry: CustodianClient,
    pub sandbox: CustodianClient,
}

impl Roster {
    pub const fn get(&self, custodian: Custodian) -> &CustodianClient {
        match custodian {
            Custodian::Chat => &self.chat,
            Custodian::Registry => &self.registry,
            Custodian::Sandbox => &self.sandbox,
        }
    }
}
