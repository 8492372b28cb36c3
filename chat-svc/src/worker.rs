//! Background tasks.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`claimer`] | a notice, or every second | takes turns that wait or were left, and starts a driver for each |
//! | [`driver`] | one a turn | runs the turn and ends, hands over or leaves it |
//! | [`leases`] | a third of a lease | renews the leases of all turns in hand with one statement |
//! | [`stops`] | every second | tells sandboxes to stop what still runs of turns that have ended |
//! | [`retention`] | ten minutes | deletes idempotency keys that no longer count |

pub mod claimer;
pub mod driver;
pub mod leases;
pub mod retention;
pub mod stops;
