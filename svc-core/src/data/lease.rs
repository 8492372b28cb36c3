//! Leases. A lease gives one holder the right to work on an object; a fence refuses the writes of a process
//! that has lost its lease.
//!
//! * [`item`]: leases on rows (turns, sandbox creations, purge jobs, lanes of messages, schedules), kept in
//!   columns of the row. The clock of Postgres decides when a lease has expired and may be claimed. An
//!   expired lease alone stops no writer: each claim raises the row's epoch, and a write with an older epoch
//!   is refused. Redis is not used.
//! * [`singleton`]: leases on tasks of which one replica at a time runs a pass (reconcilers, sweeps, probes).
//!   A lock in Redis decides which replica may try; Postgres refuses writes of a replica that lost the lease.

pub mod item;
pub mod singleton;

pub use self::{
    item::{ItemLease, ItemLeases, Scanner},
    singleton::{Held, Singleton},
};

#[cfg(test)]
mod tests;
