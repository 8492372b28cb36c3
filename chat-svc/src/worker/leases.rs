//! Renews the leases of the turns that this process runs.

use std::time::Duration;

use svc_core::run::lifecycle::Lifecycle;

use crate::app::running::RunningTurns;

/// Renews all leases every `period`, for `ttl` each.
pub(crate) fn start(running: RunningTurns, ttl: Duration, period: Duration, lifecycle: &Lifecycle) {
    lifecycle.every("turn leases", period, move || {
        let running = running.clone();
        async move { Ok(running.renew(ttl, period / 2).await?) }
    });
}
