//! Items for tests of this crate and of the custodians: a simulated custodian, the suite that every custodian
//! passes, and exports of private modules.

pub mod contract;
pub mod fake;

pub use crate::{
    config::WorkerConfig,
    error::{Entity, Error},
    metrics::Metrics,
};

pub mod app {
    pub use crate::app::*;
}

pub mod client {
    pub use crate::client::*;
}

pub mod domain {
    pub use crate::domain::*;
}

pub mod store {
    pub use crate::store::*;
}

pub mod worker {
    pub use crate::worker::*;
}
