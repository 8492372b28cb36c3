//! Use cases: each makes its ids and times, decides by `domain`, and owns its transactions.

pub mod dead_letters;
pub mod drive;
pub mod holds;
pub mod jobs;
pub mod ledger;
