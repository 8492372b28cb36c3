//! Background tasks, one file each.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`retention`] | `retention.period` | deletes idempotency keys that no longer count |

pub mod retention;
