//! The journal of one tool call: the intent before it is sent, its result after, and its recovery by another
//! worker.

use std::time::Duration;

use svc_core::id::{AccountId, SandboxId, SessionId, TurnId};

use super::{message::ToolCall, tools::Rendered};

/// Identifies one call, the same for every worker that executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub turn_id: TurnId,
    pub step: i32,
    /// Place among the step's calls, from 1.
    pub call: i32,
}

impl CallKey {
    /// Returns the idempotency key that is sent to sandbox-svc with this dispatch; the first has number 1. A
    /// call is dispatched again only after sandbox-svc has abandoned the previous key: it refuses that key
    /// from then on.
    pub(crate) fn exec_key(&self, dispatch: i32) -> String {
        let Self { turn_id, step, call } = self;
        match dispatch {
            ..=1 => format!("{turn_id}/{step}/{call}"),
            again => format!("{turn_id}/{step}/{call}/{again}"),
        }
    }
}

/// State of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolCallState {
    /// The model made the call; nothing was sent.
    Intended,
    /// The call may have been sent to a sandbox.
    Dispatched,
    /// Final: the call has a result.
    Finished,
    /// Final: the call may or may not have run, and no service can tell.
    InDoubt,
}

impl ToolCallState {
    /// Returns the state of a call with this result.
    pub(crate) const fn of(result: &Rendered) -> Self {
        if result.in_doubt { Self::InDoubt } else { Self::Finished }
    }
}

/// Outcome of stopping a call of an ended turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopOutcome {
    /// The call has ended: by itself, or because it was stopped.
    Ended,
    /// The call did not run and never will.
    NeverRan,
    /// The call may or may not have run, and its sandbox is gone.
    InDoubt,
    /// sandbox-svc did not report the call's end within all attempts; the command's own timeout ends it.
    Unanswered,
}

impl StopOutcome {
    /// Maximum attempts: they span ten minutes, the longest time that a command may run.
    const ATTEMPTS: i32 = 16;
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    /// Returns the pause after attempt number `tries`, if it had no outcome; `None` after the last attempt.
    pub(crate) fn pause_after(tries: i32) -> Option<Duration> {
        let doublings = u32::try_from(tries.max(1) - 1).unwrap_or(0).min(6);
        (tries < Self::ATTEMPTS).then(|| Duration::from_secs(1 << doublings).min(Self::LONGEST_PAUSE))
    }
}

/// A call that may still run although its turn has ended.
#[derive(Debug, Clone)]
pub(crate) struct DueStop {
    pub key: CallKey,
    pub account_id: AccountId,
    pub session_id: SessionId,
    /// The sandbox of its last dispatch.
    pub sandbox_id: SandboxId,
    pub dispatches: i32,
    /// The turn's trace context.
    pub traceparent: Option<String>,
}

/// One call in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournaledCall {
    pub key: CallKey,
    pub call: ToolCall,
    pub state: ToolCallState,
    /// Number of times that it was, or may have been, sent.
    pub dispatches: i32,
    /// The sandbox of its last dispatch.
    pub sandbox_id: Option<SandboxId>,
    /// Its result as the model reads it.
    pub result: Option<Rendered>,
}

/// Next action of a worker on a call from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Send it: it was not sent.
    Dispatch,
    /// Ask its sandbox for the state of the last dispatch.
    Resolve { sandbox_id: SandboxId },
    /// Nothing: it has a result.
    Done,
}

impl JournaledCall {
    pub(crate) fn recovery(&self) -> Recovery {
        match (self.state, self.sandbox_id) {
            (ToolCallState::Finished | ToolCallState::InDoubt, _) => Recovery::Done,
            (ToolCallState::Dispatched, Some(sandbox_id)) => Recovery::Resolve { sandbox_id },
            (ToolCallState::Intended, _) | (ToolCallState::Dispatched, None) => Recovery::Dispatch,
        }
    }

    /// The key of the last dispatch.
    pub(crate) fn exec_key(&self) -> String {
        self.key.exec_key(self.dispatches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tools;

    #[test]
    fn every_dispatch_has_its_own_key() {
        let key = CallKey { turn_id: TurnId::new(), step: 2, call: 1 };
        assert_eq!(key.exec_key(1), format!("{}/2/1", key.turn_id));
        assert_eq!(key.exec_key(2), format!("{}/2/1/2", key.turn_id));
    }

    #[test]
    fn stop_attempts_end_after_the_longest_command() {
        let pauses: Vec<_> = (1..).map_while(StopOutcome::pause_after).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60, 60, 60]);
        assert!(Duration::from_secs(pauses.iter().sum()) >= tools::MAX_TIMEOUT);
    }

    #[test]
    fn only_a_dispatched_call_is_resolved() {
        let sandbox_id = SandboxId::new();
        for state in [
            ToolCallState::Intended,
            ToolCallState::Dispatched,
            ToolCallState::Finished,
            ToolCallState::InDoubt,
        ] {
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
