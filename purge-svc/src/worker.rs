//! Background tasks, one file each.
//!
//! | Task | Period | Use case |
//! |---|---|---|
//! | [`drive`] | `worker.poll`, or a wake-up | claims due jobs and runs each until it waits or is final |
//! | [`gauges`] | `worker.gauges_period` | counts open jobs and dead letters for the metrics |

pub mod drive;
pub mod gauges;
