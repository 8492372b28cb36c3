//! Deadlines computed from durations.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Returns the time `within` after `now`, or the largest date if the sum does not fit in a date.
pub fn after(now: DateTime<Utc>, within: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(within)
        .ok()
        .and_then(|within| now.checked_add_signed(within))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
