//! Background tasks, one file each.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`drive`] | `worker.poll`, or when told | takes jobs that are due and drives them as far as they go |
//! | [`gauges`] | `worker.gauges_period` | counts open jobs and dead letters for the metrics |
//! | [`retention`] | `retention.period` | deletes idempotency keys that no longer count |

pub mod drive;
pub mod gauges;
pub mod retention;
