//! Use cases: each makes its ids and times, calls `domain` for the decision, and opens and commits its
//! transactions.

pub mod claims;
pub mod dead_letters;
pub mod drive;
pub mod gauges;
pub mod holds;
pub mod jobs;
pub mod ledger;
pub mod run;
