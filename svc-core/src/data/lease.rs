//! Leases: who may work on something, and how everybody else is kept from writing as if they were.
//!
//! * [`item`]: leases on rows (turns, creates, purge jobs, lanes, schedules). Columns of the row, judged by the
//!   database's clock, no Redis. Time only permits a taking; the epoch alone decides who may write.
//! * [`singleton`]: leases on tasks of which one replica runs a pass (reconcilers, sweeps, probes). Redis says
//!   who may try, Postgres fences.

pub mod item;
pub mod singleton;

pub use self::{
    item::{ItemLease, ItemLeases, Scanner},
    singleton::{Held, Singleton},
};

#[cfg(test)]
mod tests;
