//! Beats: how often agents beat; after how many missed beats an agent counts as silent
//! ([`BeatSchedule::silence_timeout`]); the snapshot of an agent that is kept between beats; what a beat
//! changes.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use svc_core::id::{AccountId, AgentId};

use super::{
    agent::{Agent, Vitals},
    status::{Input, Status, next_status},
};

/// The cached part of an agent's record. A beat that would not change these fields is answered without
/// reading the record. If the cache and the record in Postgres differ, the record is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub incarnation: i64,
    pub status: Status,
    pub judges_itself: bool,
}

impl From<&Agent> for Snapshot {
    fn from(agent: &Agent) -> Self {
        Self {
            incarnation: agent.incarnation,
            status: agent.status,
            judges_itself: agent.vitals.judges_itself,
        }
    }
}

/// Writes `<incarnation>:<status>:<0 or 1>`; the Redis scripts read the incarnation.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.incarnation, letter(self.status), u8::from(self.judges_itself))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("text is no snapshot of an agent")]
pub(crate) struct NoSnapshot;

impl FromStr for Snapshot {
    type Err = NoSnapshot;

    fn from_str(text: &str) -> Result<Self, NoSnapshot> {
        let mut parts = text.split(':');
        let (Some(incarnation), Some(status), Some(judges), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoSnapshot);
        };
        Ok(Self {
            incarnation: incarnation.parse().map_err(|_| NoSnapshot)?,
            status: Status::ALL.into_iter().find(|known| letter(*known) == status).ok_or(NoSnapshot)?,
            judges_itself: match judges {
                "0" => false,
                "1" => true,
                _ => return Err(NoSnapshot),
            },
        })
    }
}

const fn letter(status: Status) -> &'static str {
    match status {
        Status::AwaitingAgent => "a",
        Status::Online => "o",
        Status::Degraded => "d",
        Status::Offline => "f",
        Status::Paused => "p",
        Status::Removed => "r",
    }
}

/// A beat, as an agent sends it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Beat {
    /// Vitals without `judges_itself`, which [`Beat::vitals_after`] fills in.
    pub vitals: Vitals,
    /// Whether the agent judges its own health from now on; `None` leaves that as it was.
    pub judges_itself: Option<bool>,
}

impl Beat {
    /// Returns the vitals to store after this beat, corrected to be within bounds. `judges_itself` is the
    /// agent's present setting; a setting in the beat replaces it and already applies to the health in this
    /// beat.
    pub(crate) fn vitals_after(&self, judges_itself: bool) -> Vitals {
        Vitals { judges_itself: self.judges_itself.unwrap_or(judges_itself), ..self.vitals.clone() }
            .within_bounds()
    }

    /// Returns whether this beat would leave the fields of `known` as they are.
    pub(crate) fn changes_nothing(&self, known: &Snapshot) -> bool {
        let vitals = self.vitals_after(known.judges_itself);
        vitals.judges_itself == known.judges_itself
            && next_status(known.status, Input::Beat(vitals.health())) == Ok(known.status)
    }
}

/// The vitals of a beat, to be written to the agent's record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BeatRecord {
    pub agent: AgentId,
    pub account: AccountId,
    /// The incarnation that sent it.
    pub incarnation: i64,
    pub vitals: Vitals,
    pub at: DateTime<Utc>,
}

/// The part of an agent's record that decides whether it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentLiveness {
    pub agent: AgentId,
    pub snapshot: Snapshot,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
}

/// The change of an agent's deadline in Redis that goes with a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadlineChange {
    Keep,
    /// The deadline is removed, unless a beat moved it into the future meanwhile.
    RemoveIfPassed,
    Remove,
    /// The deadline is moved to this long from now, unless it is later already.
    ExtendTo(Duration),
}

/// Limits of a sweep for silent agents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SweepLimits {
    /// Time between two sweeps.
    pub period: Duration,
    /// Time in which every agent must beat once after a pause between sweeps, or after a mass silence.
    pub probation: Duration,
    /// If at most this number of agents is silent, it is no mass silence.
    pub max_silent: u32,
    /// If at most this share of all agents is silent, it is no mass silence.
    pub max_silent_share: f64,
}

/// How often agents beat, and after how much silence an agent is offline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BeatSchedule {
    pub min_interval: Duration,
    pub max_interval: Duration,
    /// Target of beats a second from all agents together; with more agents, each agent beats less often.
    pub target_per_second: u32,
    /// Beats that an agent may miss.
    pub missed_beats: u32,
    /// Time on top of the missed beats.
    pub grace: Duration,
}

/// Maximum share of the interval by which a beat is moved at random, so that agents that started together do
/// not beat together.
const JITTER: f64 = 0.1;

impl BeatSchedule {
    /// Returns the time between two beats of an agent while `alive` agents beat.
    pub(crate) fn interval(&self, alive: u64) -> Duration {
        let seconds =
            u32::try_from(alive).map_or(f64::MAX, f64::from) / f64::from(self.target_per_second.max(1));
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.max_interval)
            .clamp(self.min_interval, self.max_interval)
    }

    /// Returns the time until an agent's next beat. `draw`, a random number from 0 to 1, selects the jitter.
    pub(crate) fn next_beat(&self, interval: Duration, draw: f64) -> Duration {
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * draw.clamp(0.0, 1.0))
    }

    /// Returns the silence after which an agent that beats every `interval` is offline.
    pub(crate) fn silence_timeout(&self, interval: Duration) -> Duration {
        interval.mul_f64(1.0 + JITTER) * self.missed_beats.max(1) + self.grace
    }

    /// Returns the time in which every living agent must beat once, when earlier beats may have been lost.
    pub(crate) fn probation(&self) -> Duration {
        self.max_interval.mul_f64(1.0 + JITTER) + self.grace
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(status: Status, judges_itself: bool) -> Snapshot {
        Snapshot { incarnation: 7, status, judges_itself }
    }

    #[test]
    fn a_snapshot_survives_its_text() {
        for status in Status::ALL {
            for judges_itself in [false, true] {
                let snapshot = known(status, judges_itself);
                assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
            }
        }
        for bad in ["", "7", "7:o", "7:x:0", "7:o:2", "7:o:0:1", "x:o:0", "7:oo:0"] {
            assert_eq!(bad.parse::<Snapshot>(), Err(NoSnapshot), "{bad}");
        }
    }

    #[test]
    fn a_beat_needs_the_record_only_if_it_changes_something() {
        let well = Beat::default();
        let wedged = Beat { vitals: Vitals { wedged: true, ..Vitals::default() }, ..Beat::default() };
        let failing = Beat { vitals: Vitals { error_rate: 0.9, ..Vitals::default() }, ..Beat::default() };
        let judging = Beat { judges_itself: Some(true), ..failing.clone() };
        for (beat, status, judges, want) in [
            (&well, Status::Online, false, true),
            (&well, Status::Paused, false, true),
            (&well, Status::Offline, false, false),
            (&well, Status::AwaitingAgent, false, false),
            (&well, Status::Degraded, false, false),
            (&well, Status::Removed, false, false),
            (&wedged, Status::Degraded, false, true),
            (&wedged, Status::Online, true, false),
            (&failing, Status::Online, false, false),
            (&failing, Status::Online, true, true),
            // The agent begins to judge its own health with this beat: `judges_itself` changes the record,
            // and the error rate of 0.9 does not degrade the agent.
            (&judging, Status::Online, false, false),
            (&judging, Status::Online, true, true),
        ] {
            assert_eq!(beat.changes_nothing(&known(status, judges)), want, "{beat:?} {status:?} {judges}");
        }
        let vitals = judging.vitals_after(false);
        assert_eq!(next_status(Status::Online, Input::Beat(vitals.health())), Ok(Status::Online));
    }

    fn schedule() -> BeatSchedule {
        BeatSchedule {
            min_interval: Duration::from_secs(10),
            max_interval: Duration::from_secs(60),
            target_per_second: 5000,
            missed_beats: 3,
            grace: Duration::from_secs(15),
        }
    }

    #[test]
    fn more_agents_beat_less_often_within_bounds() {
        let seconds: Vec<_> =
            [0, 1, 50_000, 100_000, 250_000, u64::MAX].map(|n| schedule().interval(n).as_secs()).into();
        assert_eq!(seconds, [10, 10, 10, 20, 50, 60]);
    }

    proptest! {
        #[test]
        fn an_agent_on_schedule_is_never_silent(alive in 0_u64..1_000_000, draw in 0.0..1.0_f64) {
            let schedule = schedule();
            let interval = schedule.interval(alive);
            let next = schedule.next_beat(interval, draw);
            let silence = next * schedule.missed_beats + schedule.grace;
            prop_assert!(silence <= schedule.silence_timeout(interval) + Duration::from_millis(1));
            prop_assert!(next < schedule.probation());
        }
    }
}
