//! Use cases. They create all ids, read the clock, own the transactions, and notify readers and workers after
//! a commit.

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
