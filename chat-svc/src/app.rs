//! Use cases: they make every id and time, own the transactions, and tell readers and workers what was
//! committed.

pub(crate) mod claims;
pub(crate) mod custodian;
pub(crate) mod ending;
pub(crate) mod notice;
pub(crate) mod run;
pub(crate) mod running;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod stops;
pub(crate) mod turns;
