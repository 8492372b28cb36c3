//! The fault suites: processes are killed, suspended or stopped, and servers go down, while the plane works.
//! `make soak` runs these suites with full counts.

mod fencing;
mod kills;
mod outages;
mod takeover;
