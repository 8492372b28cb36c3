//! Clients of the services that purge-svc calls.

pub mod custodian;

use self::custodian::CustodianClient;
use crate::domain::custodian::Custodian;

/// One client for each custodian. Every field is required, because an erasure must call every custodian.
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
