//! Leases: the right to work on an object, and the fence against writers without it.
//!
//! * [`item`]: leases on rows (turns, creates, purge jobs, lanes, schedules). Columns of the row, judged by
//!   the database's clock, no Redis. The time only permits a claim; the epoch alone decides which holder may
//!   write.
//! * [`singleton`]: leases on tasks of which one replica runs a pass (reconcilers, sweeps, probes). Redis
//!   decides which replica may try, Postgres fences.

pub mod item;
pub mod singleton;

pub use self::{
    item::{ItemLease, ItemLeases, Scanner},
    singleton::{Held, Singleton},
};

#[cfg(test)]
mod tests;
