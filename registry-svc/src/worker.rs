//! Background tasks, one file each.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`liveness`] | several | stamps beats, writes them down, looks for silent agents |
//! | [`retention`] | `retention.period` | deletes idempotency keys that no longer count |

pub mod liveness;
pub mod retention;
