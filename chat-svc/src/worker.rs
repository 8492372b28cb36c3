//! Background tasks.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`claimer`] | every notice and `scan_period` | claims turns that no worker runs, starts their drivers |
//! | [`driver`] | once per claimed turn | runs the turn and ends, hands over or leaves it |
//! | [`leases`] | every `renew_period` | renews the leases of all running turns with one statement |
//! | [`stops`] | every `scan_period` | stops calls that may still run although their turn has ended |

pub(crate) mod claimer;
pub(crate) mod driver;
pub(crate) mod leases;
pub(crate) mod stops;
