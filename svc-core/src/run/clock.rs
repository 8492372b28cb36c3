//! The wall clock of services. Code that needs the time takes a [`SharedClock`], so that tests can set it;
//! the linter refuses `Utc::now` elsewhere. Leases on rows are an exception: the clock of Postgres decides
//! when they expire.

use std::{fmt::Debug, sync::Arc};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

pub trait Clock: Debug + Send + Sync {
    /// Returns the present time, truncated to microseconds, the precision of Postgres.
    fn now(&self) -> DateTime<Utc>;
}

/// A clock that components share.
pub type SharedClock = Arc<dyn Clock>;

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Returns the machine's clock as a shared clock.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> DateTime<Utc> {
        let now = Utc::now();
        now.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(now)
    }
}

/// A clock that moves only when a test advances it.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug)]
pub struct MockClock(std::sync::Mutex<DateTime<Utc>>);

#[cfg(any(test, feature = "test-util"))]
impl MockClock {
    /// Builds a clock that stands at `now`.
    pub fn at(now: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(now)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: std::time::Duration) {
        if let (Ok(mut now), Ok(by)) = (self.0.lock(), TimeDelta::from_std(by)) {
            *now += by;
        }
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for MockClock {
    fn now(&self) -> DateTime<Utc> {
        self.0.lock().map_or_else(|poisoned| *poisoned.into_inner(), |now| *now)
    }
}
