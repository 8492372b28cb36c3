//! The fault suites: processes die, sleep or stop, and servers go away, while the plane works. `make soak`
//! runs them with full counts.

mod fencing;
mod kills;
mod outages;
mod takeover;
