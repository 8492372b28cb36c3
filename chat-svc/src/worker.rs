//! Background tasks.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`claimer`] | a notice, or every second | claims queued and lapsed turns, and starts their drivers |
//! | [`driver`] | one per turn | runs the turn and ends, hands over or leaves it |
//! | [`leases`] | a third of a lease | renews the leases of all running turns with one statement |
//! | [`stops`] | every second | stops calls that still run although their turn has ended |

pub(crate) mod claimer;
pub(crate) mod driver;
pub(crate) mod leases;
pub(crate) mod stops;
