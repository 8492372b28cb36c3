//! Use cases: they make every id and time, own the transactions, and tell readers and workers what was committed.

pub mod custodian;
pub mod ending;
pub mod notice;
pub mod run;
pub mod sessions;
pub mod turns;
