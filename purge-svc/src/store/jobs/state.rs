//! The columns in which a job's state is stored.

use svc_core::pg_enum;

use crate::domain::job::{Phase, State, StateLabel};

pg_enum!(StateLabel as "purge_state" {
    Pending => "pending",
    Frozen => "frozen",
    Inventoried => "inventoried",
    Erasing => "erasing",
    Erased => "erased",
    Verified => "verified",
    Blocked => "blocked",
    DeadLettered => "dead_lettered",
    Committed => "committed",
    Thawed => "thawed",
});

/// Returns the columns that store a state.
pub const fn to_columns(state: State) -> (StateLabel, Option<Phase>) {
    (state.label(), state.phase())
}

/// Returns the state in these columns; `None` if they contradict each other.
pub fn from_columns(label: StateLabel, phase: Option<Phase>) -> Option<State> {
    State::ALL.into_iter().find(|state| to_columns(*state) == (label, phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back_from_its_columns() {
        for state in State::ALL {
            let (label, phase) = to_columns(state);
            assert_eq!(from_columns(label, phase), Some(state));
        }
        assert_eq!(from_columns(StateLabel::Frozen, Some(Phase::Erased)), None);
        assert_eq!(from_columns(StateLabel::Committed, Some(Phase::Verified)), None);
        assert_eq!(from_columns(StateLabel::Blocked, None), None);
    }
}
