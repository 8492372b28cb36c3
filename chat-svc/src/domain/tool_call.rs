//! The journal of one tool call: intent before, result after, and what a worker may do with what it finds.

use std::time::Duration;

use svc_core::id::{SandboxId, TurnId};

use super::{step::ToolCall, tools::Rendered};

/// Names one call for ever, whoever carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// The turn.
    pub turn_id: TurnId,
    /// The step that made the call.
    pub step: i32,
    /// Its place among the step's calls, from 1.
    pub call: i32,
}

impl CallKey {
    /// The key under which the `dispatch`-th dispatch (from 1) travels. A later one exists only after every
    /// earlier one was written off at the sandbox: a key that was written off is refused for ever.
    #[must_use]
    pub fn exec_key(&self, dispatch: i32) -> String {
        let Self { turn_id, step, call } = self;
        match dispatch {
            ..=1 => format!("{turn_id}/{step}/{call}"),
            again => format!("{turn_id}/{step}/{call}/{again}"),
        }
    }
}

/// How far a call got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolCallState {
    /// The model made it; nothing was sent.
    Intended,
    /// It may have been sent to a sandbox.
    Dispatched,
    /// Final: it has a result.
    Finished,
    /// Final: it may or may not have run, and nobody can tell any more.
    InDoubt,
}

impl ToolCallState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Intended, Self::Dispatched, Self::Finished, Self::InDoubt];

    /// The state that a result leads to.
    #[must_use]
    pub const fn of(result: &Rendered) -> Self {
        if result.in_doubt { Self::InDoubt } else { Self::Finished }
    }
}

/// What came of telling a call to stop whose turn has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallStop {
    /// It has ended: by itself, or because it was told to.
    Ended,
    /// It never ran and never will.
    NeverRan,
    /// It may or may not have run, and nobody can tell any more: its sandbox is gone.
    InDoubt,
    /// Nobody answered for so long that nobody is asked any more; its own timeout ends it.
    Unanswered,
}

impl CallStop {
    /// Times a sandbox is told: for ten minutes, which is the longest that a command may run.
    const TRIES: i32 = 16;
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    /// The pause after the `tries`-th time that came to nothing; `None`: it was the last.
    #[must_use]
    pub fn pause_after(tries: i32) -> Option<Duration> {
        let doublings = u32::try_from(tries.max(1) - 1).unwrap_or(0).min(6);
        (tries < Self::TRIES).then(|| Duration::from_secs(1 << doublings).min(Self::LONGEST_PAUSE))
    }
}

/// One call as journaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournaledCall {
    /// Its key.
    pub key: CallKey,
    /// What the model asked for.
    pub call: ToolCall,
    /// How far it got.
    pub state: ToolCallState,
    /// Times it was, or may have been, sent.
    pub dispatches: i32,
    /// Where it was sent last.
    pub sandbox_id: Option<SandboxId>,
    /// What became of it, as the model reads it.
    pub result: Option<Rendered>,
}

/// What a worker does with a call it finds in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Send it: nobody did.
    Dispatch,
    /// Ask the sandbox what became of the last dispatch.
    Resolve {
        /// Where it was sent.
        sandbox_id: SandboxId,
    },
    /// Nothing: it has a result.
    Done,
}

impl JournaledCall {
    /// What to do with it.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        match (self.state, self.sandbox_id) {
            (ToolCallState::Finished | ToolCallState::InDoubt, _) => Recovery::Done,
            (ToolCallState::Dispatched, Some(sandbox_id)) => Recovery::Resolve { sandbox_id },
            (ToolCallState::Intended, _) | (ToolCallState::Dispatched, None) => Recovery::Dispatch,
        }
    }

    /// The key of the last dispatch.
    #[must_use]
    pub fn exec_key(&self) -> String {
        self.key.exec_key(self.dispatches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tools;

    #[test]
    fn every_dispatch_has_its_own_key_and_the_first_is_the_calls() {
        let key = CallKey { turn_id: TurnId::new(), step: 2, call: 1 };
        assert_eq!(key.exec_key(1), format!("{}/2/1", key.turn_id));
        assert_eq!(key.exec_key(2), format!("{}/2/1/2", key.turn_id));
    }

    #[test]
    fn a_stop_is_tried_so_often_and_no_more() {
        let pauses: Vec<_> = (1..).map_while(CallStop::pause_after).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60, 60, 60]);
        assert!(Duration::from_secs(pauses.iter().sum()) >= tools::MAX_TIMEOUT);
    }

    #[test]
    fn only_what_may_have_been_sent_is_resolved() {
        let sandbox_id = SandboxId::new();
        for state in ToolCallState::ALL {
            let call = JournaledCall {
                key: CallKey { turn_id: TurnId::new(), step: 1, call: 1 },
                call: ToolCall { id: "c".into(), name: "shell".into(), arguments: "{}".into() },
                state,
                dispatches: 1,
                sandbox_id: Some(sandbox_id),
                result: None,
            };
            let want = match state {
                ToolCallState::Intended => Recovery::Dispatch,
                ToolCallState::Dispatched => Recovery::Resolve { sandbox_id },
                ToolCallState::Finished | ToolCallState::InDoubt => Recovery::Done,
            };
            assert_eq!(call.recovery(), want);
        }
    }
}
