//! Background tasks, one file each.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`liveness`] | several | stamps beats, writes them down, looks for silent agents |
//! | [`relay`] | `relay.scan_period`, and when told | delivers messages; ends those whose time is over |
//! | [`retention`] | `retention.period` | deletes idempotency keys, messages and lanes that no longer count |

pub mod liveness;
pub mod relay;
pub mod retention;
