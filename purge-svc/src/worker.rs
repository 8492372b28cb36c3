//! Background tasks, one file each.
//!
//! | Task | Period | Use case |
//! |---|---|---|
//! | [`drive`] | `worker.poll`, or a wake-up | claims due jobs and runs them as far as they go |
//! | [`gauges`] | `worker.gauges_period` | counts open jobs and dead letters for the metrics |

pub mod drive;
pub mod gauges;
