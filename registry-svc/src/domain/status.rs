//! Where an agent stands, and the one function that says where it stands next.
//!
//! Whatever happens to an agent is an [`Input`]; nothing else writes a status. Parked and removed agents are
//! beyond the reach of agent traffic: a late registration or beat of a process that should be gone does not bring
//! them back.

/// Share of failed requests from which an agent counts as unwell.
pub const UNWELL_FROM: f64 = 0.5;

/// Share of failed requests below which it counts as well again. What lies between changes nothing.
pub const WELL_BELOW: f64 = 0.1;

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Created or resumed; its process has not been heard of since.
    AwaitingAgent,
    /// Reachable.
    Online,
    /// Reachable and unwell.
    Degraded,
    /// Not heard of for too long.
    Offline,
    /// Suspended by its tenant.
    Paused,
    /// Gone for good.
    Removed,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::AwaitingAgent, Self::Online, Self::Degraded, Self::Offline, Self::Paused, Self::Removed];

    /// Whether messages may be delivered to it.
    #[must_use]
    pub const fn is_reachable(self) -> bool {
        match self {
            Self::Online | Self::Degraded => true,
            Self::AwaitingAgent | Self::Offline | Self::Paused | Self::Removed => false,
        }
    }
}

/// What an agent says of its own health.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// It says that it cannot go on.
    pub wedged: bool,
    /// Share of its requests that failed since its last beat, 0 to 1.
    pub error_rate: f64,
    /// It judges its own health: its word counts, its error rate does not.
    pub judges_itself: bool,
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// Its process says where it is reached.
    Register,
    /// Its process is alive.
    Beat(Health),
    /// It was not heard of for too long.
    Silence,
    /// Its tenant suspends it.
    Pause,
    /// Its tenant ends the suspension.
    Resume,
    /// Its tenant removes it.
    Remove,
}

/// Why an input changes nothing and is an error to whoever gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such agent any more.
    #[error("agent is removed")]
    Removed,
    /// The agent is suspended: its process cannot end that.
    #[error("agent is paused")]
    Paused,
    /// There is no suspension to end.
    #[error("agent is not paused")]
    NotPaused,
}

/// Where an agent at `status` stands after `input`; the same status means that nothing changes.
///
/// # Errors
/// [`Refused`] if the input has no meaning there.
pub fn next_status(status: Status, input: Input) -> Result<Status, Refused> {
    use Status::{AwaitingAgent, Degraded, Offline, Online, Paused, Removed};
    match (status, input) {
        (Removed, Input::Remove) => Ok(Removed),
        (Removed, Input::Silence) => Ok(Removed),
        (Removed, Input::Register | Input::Beat(_) | Input::Pause | Input::Resume) => Err(Refused::Removed),

        (AwaitingAgent | Online | Degraded | Offline, Input::Register) => Ok(Online),
        (Paused, Input::Register) => Err(Refused::Paused),

        (AwaitingAgent | Online | Offline, Input::Beat(health)) => {
            Ok(if health.is_unwell() { Degraded } else { Online })
        }
        (Degraded, Input::Beat(health)) => Ok(if health.is_well() { Online } else { Degraded }),
        // Acknowledged, so that it learns of its suspension.
        (Paused, Input::Beat(_)) => Ok(Paused),

        (Online | Degraded, Input::Silence) => Ok(Offline),
        (AwaitingAgent | Offline | Paused, Input::Silence) => Ok(status),

        (AwaitingAgent | Online | Degraded | Offline | Paused, Input::Pause) => Ok(Paused),

        (Paused, Input::Resume) => Ok(AwaitingAgent),
        (AwaitingAgent | Online | Degraded | Offline, Input::Resume) => Err(Refused::NotPaused),

        (AwaitingAgent | Online | Degraded | Offline | Paused, Input::Remove) => Ok(Removed),
    }
}

impl Health {
    fn is_unwell(&self) -> bool {
        self.wedged || (!self.judges_itself && self.error_rate >= UNWELL_FROM)
    }

    fn is_well(&self) -> bool {
        !self.wedged && (self.judges_itself || self.error_rate < WELL_BELOW)
    }
}

impl Input {
    /// Whether what was heard of the agent before no longer says anything about it. Every input but a beat begins
    /// a new incarnation; a beat that was on its way since before changes nothing.
    #[must_use]
    pub const fn begins_incarnation(self) -> bool {
        match self {
            Self::Register | Self::Silence | Self::Pause | Self::Resume | Self::Remove => true,
            Self::Beat(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Health = Health { wedged: false, error_rate: 0.0, judges_itself: false };

    /// Every kind of input, each kind of beat apart.
    fn inputs() -> Vec<(&'static str, Input)> {
        let beat =
            |wedged, error_rate, judges_itself| Input::Beat(Health { wedged, error_rate, judges_itself });
        vec![
            ("register", Input::Register),
            ("beat, well", beat(false, 0.0, false)),
            ("beat, just well", beat(false, 0.099, false)),
            ("beat, between", beat(false, 0.1, false)),
            ("beat, nearly unwell", beat(false, 0.499, false)),
            ("beat, unwell", beat(false, 0.5, false)),
            ("beat, wedged", beat(true, 0.0, false)),
            ("beat, wedged and unwell", beat(true, 1.0, false)),
            ("own judgement, unwell", beat(false, 1.0, true)),
            ("own judgement, wedged", beat(true, 0.0, true)),
            ("silence", Input::Silence),
            ("pause", Input::Pause),
            ("resume", Input::Resume),
            ("remove", Input::Remove),
        ]
    }

    #[test]
    fn every_status_and_input_has_its_answer() {
        use Status::{
            AwaitingAgent as A, Degraded as D, Offline as F, Online as O, Paused as P, Removed as R,
        };
        let (gone, parked, not) = (Err(Refused::Removed), Err(Refused::Paused), Err(Refused::NotPaused));
        // In the order of Status::ALL: awaiting, online, degraded, offline, paused, removed.
        let table: Vec<(&str, [Result<Status, Refused>; 6])> = vec![
            ("register", [Ok(O), Ok(O), Ok(O), Ok(O), parked, gone]),
            ("beat, well", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("beat, just well", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("beat, between", [Ok(O), Ok(O), Ok(D), Ok(O), Ok(P), gone]),
            ("beat, nearly unwell", [Ok(O), Ok(O), Ok(D), Ok(O), Ok(P), gone]),
            ("beat, unwell", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("beat, wedged", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("beat, wedged and unwell", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("own judgement, unwell", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("own judgement, wedged", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("silence", [Ok(A), Ok(F), Ok(F), Ok(F), Ok(P), Ok(R)]),
            ("pause", [Ok(P), Ok(P), Ok(P), Ok(P), Ok(P), gone]),
            ("resume", [not, not, not, not, Ok(A), gone]),
            ("remove", [Ok(R), Ok(R), Ok(R), Ok(R), Ok(R), Ok(R)]),
        ];
        let inputs = inputs();
        assert_eq!(table.len(), inputs.len());
        for ((row, want), (name, input)) in table.into_iter().zip(inputs) {
            assert_eq!(row, name);
            for (status, want) in Status::ALL.into_iter().zip(want) {
                assert_eq!(next_status(status, input), want, "{status:?} on {name}");
            }
        }
    }

    #[test]
    fn agent_traffic_never_brings_back_what_is_parked_or_gone() {
        for (name, input) in
            inputs().into_iter().filter(|(_, i)| matches!(i, Input::Register | Input::Beat(_)))
        {
            for status in [Status::Paused, Status::Removed] {
                assert_eq!(next_status(status, input).unwrap_or(status), status, "{name}");
            }
        }
    }

    #[test]
    fn only_a_beat_leaves_the_incarnation_alone() {
        let quiet: Vec<_> = inputs().into_iter().filter(|(_, input)| !input.begins_incarnation()).collect();
        assert!(quiet.iter().all(|(_, input)| matches!(input, Input::Beat(_))) && !quiet.is_empty());
        assert!(!Input::Beat(WELL).begins_incarnation());
    }
}
