//! Bounds on the calls to an engine.

use std::time::Duration;

use serde::Deserialize;
use svc_core::run::breaker::BreakerPolicy;

/// Bounds on the calls to one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimiterSettings {
    /// Maximum concurrent calls that change or list objects.
    pub changes: usize,
    /// Maximum concurrent calls that read one object.
    pub looks: usize,
    /// Maximum calls that wait for a permit; further ones are refused without waiting.
    pub waiting: usize,
    /// Deadline of a read of one object.
    #[serde(with = "humantime_serde")]
    pub look_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub list_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub create_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub start_deadline: Duration,
    /// Deadline of a removal, and of the creation of a volume.
    #[serde(with = "humantime_serde")]
    pub remove_deadline: Duration,
    pub breaker: BreakerPolicy,
}
