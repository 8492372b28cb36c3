//! An agent's status, and [`next_status`], which returns the status after an event ([`Input`]).
//!
//! The sweep does not call this function: `store::liveness::mark_offline` applies [`Input::Silence`] in SQL.
//! A registration or beat never changes the status of a paused or removed agent, because it may come late,
//! from a process that should have stopped.

/// Share of failed requests at which an agent becomes degraded.
pub(crate) const DEGRADED_FROM: f64 = 0.5;

/// Share of failed requests below which a degraded agent is online again. A share from here up to
/// [`DEGRADED_FROM`] changes neither an online nor a degraded agent.
pub(crate) const HEALTHY_BELOW: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The agent was created or resumed, and has neither registered nor beaten since.
    AwaitingAgent,
    Online,
    Degraded,
    /// No beat within the silence timeout.
    Offline,
    /// Suspended by its tenant.
    Paused,
    Removed,
}

impl Status {
    pub const ALL: [Self; 6] =
        [Self::AwaitingAgent, Self::Online, Self::Degraded, Self::Offline, Self::Paused, Self::Removed];

    /// Returns whether the relay delivers messages to the agent.
    pub const fn is_reachable(self) -> bool {
        match self {
            Self::Online | Self::Degraded => true,
            Self::AwaitingAgent | Self::Offline | Self::Paused | Self::Removed => false,
        }
    }
}

/// The part of a beat that decides between online and degraded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// The agent reports that it cannot make progress.
    pub wedged: bool,
    /// Share of the agent's requests that failed since its last beat, 0 to 1.
    pub error_rate: f64,
    /// The agent judges its own health: `wedged` decides its status, `error_rate` does not.
    pub judges_itself: bool,
}

/// An event of an agent's life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// The agent's process registered.
    Register,
    Beat(Health),
    /// No beat arrived within the silence timeout.
    Silence,
    Pause,
    Resume,
    Remove,
}

/// An input that the agent's status does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("agent is removed")]
    Removed,
    #[error("agent is paused")]
    Paused,
    #[error("agent is not paused")]
    NotPaused,
}

/// Returns the status after `input`, which may be the same.
///
/// # Errors
/// [`Refused`] if the agent is removed, if a paused agent registers, or if an agent is resumed that is not
/// paused.
pub(crate) fn next_status(status: Status, input: Input) -> Result<Status, Refused> {
    use Status::{AwaitingAgent, Degraded, Offline, Online, Paused, Removed};
    match (status, input) {
        (Removed, Input::Remove) => Ok(Removed),
        (Removed, Input::Silence) => Ok(Removed),
        (Removed, Input::Register | Input::Beat(_) | Input::Pause | Input::Resume) => Err(Refused::Removed),

        (AwaitingAgent | Online | Degraded | Offline, Input::Register) => Ok(Online),
        (Paused, Input::Register) => Err(Refused::Paused),

        (AwaitingAgent | Online | Offline, Input::Beat(health)) => {
            Ok(if health.degrades() { Degraded } else { Online })
        }
        (Degraded, Input::Beat(health)) => Ok(if health.recovers() { Online } else { Degraded }),
        // The beat is accepted, so that the reply can carry the status.
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
    fn degrades(&self) -> bool {
        self.wedged || (!self.judges_itself && self.error_rate >= DEGRADED_FROM)
    }

    fn recovers(&self) -> bool {
        !self.wedged && (self.judges_itself || self.error_rate < HEALTHY_BELOW)
    }
}

impl Input {
    /// Returns whether the input begins a new incarnation; every input but a beat does. Beats of an earlier
    /// incarnation change nothing.
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

    /// Returns every kind of input, with each kind of beat listed separately.
    fn inputs() -> Vec<(&'static str, Input)> {
        let beat =
            |wedged, error_rate, judges_itself| Input::Beat(Health { wedged, error_rate, judges_itself });
        vec![
            ("register", Input::Register),
            ("beat, well", beat(false, 0.0, false)),
            ("beat, just well", beat(false, 0.099, false)),
            ("beat, between", beat(false, 0.1, false)),
            ("beat, nearly degraded", beat(false, 0.499, false)),
            ("beat, degraded", beat(false, 0.5, false)),
            ("beat, wedged", beat(true, 0.0, false)),
            ("beat, wedged and degraded", beat(true, 1.0, false)),
            ("judges itself, failing", beat(false, 1.0, true)),
            ("judges itself, wedged", beat(true, 0.0, true)),
            ("silence", Input::Silence),
            ("pause", Input::Pause),
            ("resume", Input::Resume),
            ("remove", Input::Remove),
        ]
    }

    #[test]
    fn every_status_and_input_has_an_answer() {
        use Status::{
            AwaitingAgent as A, Degraded as D, Offline as F, Online as O, Paused as P, Removed as R,
        };
        let (gone, paused, not) = (Err(Refused::Removed), Err(Refused::Paused), Err(Refused::NotPaused));
        // Results in the order of Status::ALL: awaiting, online, degraded, offline, paused, removed.
        let table: Vec<(&str, [Result<Status, Refused>; 6])> = vec![
            ("register", [Ok(O), Ok(O), Ok(O), Ok(O), paused, gone]),
            ("beat, well", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("beat, just well", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("beat, between", [Ok(O), Ok(O), Ok(D), Ok(O), Ok(P), gone]),
            ("beat, nearly degraded", [Ok(O), Ok(O), Ok(D), Ok(O), Ok(P), gone]),
            ("beat, degraded", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("beat, wedged", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("beat, wedged and degraded", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
            ("judges itself, failing", [Ok(O), Ok(O), Ok(O), Ok(O), Ok(P), gone]),
            ("judges itself, wedged", [Ok(D), Ok(D), Ok(D), Ok(D), Ok(P), gone]),
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
    fn agent_traffic_never_revives_a_paused_or_removed_agent() {
        for (name, input) in
            inputs().into_iter().filter(|(_, i)| matches!(i, Input::Register | Input::Beat(_)))
        {
            for status in [Status::Paused, Status::Removed] {
                assert_eq!(next_status(status, input).unwrap_or(status), status, "{name}");
            }
        }
    }

    #[test]
    fn only_a_beat_keeps_the_incarnation() {
        let quiet: Vec<_> = inputs().into_iter().filter(|(_, input)| !input.begins_incarnation()).collect();
        assert!(quiet.iter().all(|(_, input)| matches!(input, Input::Beat(_))) && !quiet.is_empty());
        assert!(!Input::Beat(WELL).begins_incarnation());
    }
}
