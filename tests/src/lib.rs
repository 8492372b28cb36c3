//! Shared parts of the suites: a plane of real processes on real servers, its users, faults, load, and the
//! checks of what users saw and what is stored.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a harness: what it cannot do ends the test")]

pub mod actors;
mod capture;
pub mod cluster;
pub mod eventually;
pub mod load;
pub mod residue;
pub mod rounds;
pub mod witness;
