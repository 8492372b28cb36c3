//! Beats: what is remembered of an agent between two of them, and what a beat means.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    agent::{Agent, Vitals},
    status::{Input, Status, next_status},
};

/// What is remembered of an agent, so that a beat that changes nothing needs no database. Postgres is right where
/// they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Incarnation that it speaks of.
    pub incarnation: i64,
    /// Where the agent stands.
    pub status: Status,
    /// Whether it judges its own health.
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

/// As `<incarnation>:<status>:<0 or 1>`; scripts read the incarnation.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.incarnation, letter(self.status), u8::from(self.judges_itself))
    }
}

/// A text that is no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("text is no snapshot of an agent")]
pub struct NoSnapshot;

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
pub struct Beat {
    /// What it says; its `judges_itself` is filled in by [`Beat::upon`].
    pub vitals: Vitals,
    /// Whether it judges its own health from now on; as before if not said.
    pub judges_itself: Option<bool>,
}

impl Beat {
    /// What the beat says, given what is known. What an agent says of its judgement counts before the rest of the
    /// same beat is judged by it.
    #[must_use]
    pub fn upon(&self, judges_itself: bool) -> Vitals {
        Vitals { judges_itself: self.judges_itself.unwrap_or(judges_itself), ..self.vitals.clone() }
            .within_bounds()
    }

    /// Whether the beat leaves the record as `known` has it.
    #[must_use]
    pub fn changes_nothing(&self, known: &Snapshot) -> bool {
        let vitals = self.upon(known.judges_itself);
        vitals.judges_itself == known.judges_itself
            && next_status(known.status, Input::Beat(vitals.health())) == Ok(known.status)
    }
}

/// How often agents beat and when their silence is noticed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rhythm {
    /// Shortest time between two beats.
    pub shortest: Duration,
    /// Longest time between two beats.
    pub longest: Duration,
    /// Beats a second that the installation wants.
    pub wanted_per_second: u32,
    /// Beats that may be missed.
    pub missed: u32,
    /// Time on top of that.
    pub grace: Duration,
}

/// How far an agent's next beat may be moved, so that agents that started together drift apart.
const JITTER: f64 = 0.1;

impl Rhythm {
    /// The time between two beats while `alive` agents beat.
    #[must_use]
    pub fn interval(&self, alive: u64) -> Duration {
        let seconds =
            u32::try_from(alive).map_or(f64::MAX, f64::from) / f64::from(self.wanted_per_second.max(1));
        Duration::try_from_secs_f64(seconds).unwrap_or(self.longest).clamp(self.shortest, self.longest)
    }

    /// When an agent beats next, by `draw` in 0..1.
    #[must_use]
    pub fn next_beat(&self, interval: Duration, draw: f64) -> Duration {
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * draw.clamp(0.0, 1.0))
    }

    /// How long an agent may be silent.
    #[must_use]
    pub fn patience(&self, interval: Duration) -> Duration {
        interval.mul_f64(1.0 + JITTER) * self.missed.max(1) + self.grace
    }

    /// How long every living agent has to be heard of when nothing is known about their silence.
    #[must_use]
    pub fn amnesty(&self) -> Duration {
        self.longest.mul_f64(1.0 + JITTER) + self.grace
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
    fn a_beat_needs_the_database_only_if_it_changes_something() {
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
            // It says so in this very beat: its word is stored, and its error rate is not held against it.
            (&judging, Status::Online, false, false),
            (&judging, Status::Online, true, true),
        ] {
            assert_eq!(beat.changes_nothing(&known(status, judges)), want, "{beat:?} {status:?} {judges}");
        }
        let vitals = judging.upon(false);
        assert_eq!(next_status(Status::Online, Input::Beat(vitals.health())), Ok(Status::Online));
    }

    fn rhythm() -> Rhythm {
        Rhythm {
            shortest: Duration::from_secs(10),
            longest: Duration::from_secs(60),
            wanted_per_second: 5000,
            missed: 3,
            grace: Duration::from_secs(15),
        }
    }

    #[test]
    fn more_agents_beat_less_often_within_bounds() {
        let seconds: Vec<_> =
            [0, 1, 50_000, 100_000, 250_000, u64::MAX].map(|n| rhythm().interval(n).as_secs()).into();
        assert_eq!(seconds, [10, 10, 10, 20, 50, 60]);
    }

    proptest! {
        #[test]
        fn an_agent_that_keeps_to_its_rhythm_is_never_silent(alive in 0_u64..1_000_000, draw in 0.0..1.0_f64) {
            let rhythm = rhythm();
            let interval = rhythm.interval(alive);
            let next = rhythm.next_beat(interval, draw);
            prop_assert!(next * rhythm.missed + rhythm.grace <= rhythm.patience(interval) + Duration::from_millis(1));
            prop_assert!(next < rhythm.amnesty());
        }
    }
}
