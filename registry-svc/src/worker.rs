//! Background tasks.
//!
//! | Task | Period | What it does |
//! |---|---|---|
//! | [`liveness`] | several | renews deadlines, flushes beats, sweeps for silent agents |
//! | [`relay`] | `relay.scan_period`, and on a hint | delivers messages, and ends expired ones |
//! | retention | `retention.period` | deletes idempotency keys, messages and lanes past their retention |

pub(crate) mod liveness;
pub(crate) mod relay;

use std::time::Duration;

use svc_core::run::lifecycle::Lifecycle;

use crate::app::retention::Retention;

pub(crate) fn start_retention(retention: Retention, period: Duration, lifecycle: &Lifecycle) {
    lifecycle.every("retention", period, move || {
        let retention = retention.clone();
        async move { Ok(retention.run().await?) }
    });
}
