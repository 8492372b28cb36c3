//! Time limits of a model call, without I/O: callers pass in the time.
//!
//! Data from the upstream restarts three clocks: any byte restarts *bytes* (a keep-alive shows that the
//! connection is open), any event restarts *liveness* (the upstream works), and only content, reasoning and
//! tool calls restart *progress* (the model advances). No event moves the *deadline*, which is the turn's.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::event::{ModelEvent, Pulse};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Clock {
    /// Measures the time since the last byte.
    Bytes,
    /// Measures the time since the last event.
    Liveness,
    /// Measures the time since the last content, reasoning or tool call.
    Progress,
    /// Measures the time until the turn's deadline.
    Deadline,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Liveness => "liveness",
            Self::Progress => "progress",
            Self::Deadline => "deadline",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockLimits {
    /// Longest time without a byte.
    pub bytes: Duration,
    /// Longest time without an event.
    pub liveness: Duration,
    /// Longest time without content, reasoning or tool call.
    pub progress: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    limits: ClockLimits,
    bytes_at: Instant,
    event_at: Instant,
    progress_at: Instant,
    deadline: Instant,
}

/// A clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{clock} clock ran out after {idle:?}, last progress {since_progress:?} ago")]
pub(crate) struct Firing {
    pub clock: Clock,
    /// Time since the clock was last restarted; for the deadline, time since it passed.
    pub idle: Duration,
    pub since_progress: Duration,
}

impl Clocks {
    /// Starts the clocks `now`, for a turn with this `deadline`.
    pub(crate) const fn start(limits: ClockLimits, deadline: Instant, now: Instant) -> Self {
        Self { limits, bytes_at: now, event_at: now, progress_at: now, deadline }
    }

    /// Restarts the bytes clock, and the liveness and progress clocks if this kind of event restarts them.
    pub(crate) const fn restart(&mut self, event: &ModelEvent, now: Instant) {
        self.bytes_at = now;
        match event {
            ModelEvent::Pulse(Pulse::Bytes) => {}
            ModelEvent::Pulse(Pulse::Event) | ModelEvent::Usage(_) | ModelEvent::Finish(_) => {
                self.event_at = now;
            }
            ModelEvent::TextDelta(_)
            | ModelEvent::ReasoningDelta(_)
            | ModelEvent::ToolCallDelta { .. }
            | ModelEvent::ToolCall(_) => {
                self.event_at = now;
                self.progress_at = now;
            }
        }
    }

    /// Returns the first instant at which a clock runs out.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let [bytes, liveness, progress] = self.ends().map(|(_, end, _)| end);
        bytes.min(liveness).min(progress).min(self.deadline)
    }

    /// The clock that has run out by `now`; of several, the first.
    pub(crate) fn fired(&self, now: Instant) -> Option<Firing> {
        self.ends()
            .into_iter()
            .chain([(Clock::Deadline, self.deadline, self.deadline)])
            .filter(|(_, end, _)| *end <= now)
            .min_by_key(|(_, end, _)| *end)
            .map(|(clock, _, since)| Firing {
                clock,
                idle: now.saturating_duration_since(since),
                since_progress: now.saturating_duration_since(self.progress_at),
            })
    }

    fn ends(&self) -> [(Clock, Instant, Instant); 3] {
        let end = |clock, at: Instant, limit| (clock, at + limit, at);
        [
            end(Clock::Bytes, self.bytes_at, self.limits.bytes),
            end(Clock::Liveness, self.event_at, self.limits.liveness),
            end(Clock::Progress, self.progress_at, self.limits.progress),
        ]
    }
}
