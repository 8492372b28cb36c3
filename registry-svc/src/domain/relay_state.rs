//! The states of a relayed message, and [`next_state`], which decides how they follow each other.

/// The state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Stored; it waits for its agent or for the messages before it.
    Queued,
    /// Sent, or about to be.
    Dispatched,
    /// Final: the agent answered.
    Delivered,
    /// Final: the relay stopped trying to deliver it.
    Failed,
    /// Final: it was not dispatched in time.
    Expired,
    /// Final: its sender canceled it, or its agent was removed.
    Dropped,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Dispatched, Self::Delivered, Self::Failed, Self::Expired, Self::Dropped];

    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Dispatched => false,
            Self::Delivered | Self::Failed | Self::Expired | Self::Dropped => true,
        }
    }

    /// Returns the state as callers read it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

/// An event that changes a message's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Dispatch,
    /// The agent answered, with a result or an error.
    Answer,
    /// It is sent again later.
    Requeue,
    GiveUp,
    Expire,
    /// The sender canceled the message before it was sent.
    Cancel,
    /// The tenant removed the message's agent.
    Remove,
}

/// An input that the message's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} is not allowed for a message that is {}", .state.word())]
pub struct InvalidInput {
    pub state: State,
    pub input: Input,
}

/// Returns the state of a message after `input`.
///
/// # Errors
/// [`InvalidInput`] if the message has ended, if it is dispatched and would expire or be canceled, or if it
/// is queued and would be answered or requeued.
pub(crate) fn next_state(state: State, input: Input) -> Result<State, InvalidInput> {
    use State::{Delivered, Dispatched, Dropped, Expired, Failed, Queued};
    match (state, input) {
        (Queued | Dispatched, Input::Dispatch) => Ok(Dispatched),
        (Dispatched, Input::Answer) => Ok(Delivered),
        (Dispatched, Input::Requeue) => Ok(Queued),
        (Queued | Dispatched, Input::GiveUp) => Ok(Failed),
        // A dispatched message may have arrived, so it does not expire.
        (Queued, Input::Expire) => Ok(Expired),
        (Queued, Input::Cancel) | (Queued | Dispatched, Input::Remove) => Ok(Dropped),
        (Queued, Input::Answer | Input::Requeue)
        | (Dispatched, Input::Expire | Input::Cancel)
        | (Delivered | Failed | Expired | Dropped, _) => Err(InvalidInput { state, input }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_input_has_an_answer() {
        use State::{Delivered as L, Dispatched as D, Dropped as P, Expired as E, Failed as F, Queued as Q};
        let table = [
            (Input::Dispatch, Some(D), Some(D)),
            (Input::Answer, None, Some(L)),
            (Input::Requeue, None, Some(Q)),
            (Input::GiveUp, Some(F), Some(F)),
            (Input::Expire, Some(E), None),
            (Input::Cancel, Some(P), None),
            (Input::Remove, Some(P), Some(P)),
        ];
        for (input, from_queued, from_dispatched) in table {
            assert_eq!(next_state(Q, input).ok(), from_queued, "{input:?}");
            assert_eq!(next_state(D, input).ok(), from_dispatched, "{input:?}");
            for state in State::ALL.into_iter().filter(|state| state.is_final()) {
                assert_eq!(next_state(state, input), Err(InvalidInput { state, input }));
            }
        }
    }
}
