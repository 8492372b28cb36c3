//! Builds the caller's answer: the agent's own, or a task that represents a message without an answer.

use serde_json::{Value, json};

use super::{
    Call, Code, Envelope, MessageIds, RpcError, Version, result_for,
    translate::{unwrapped, wrapped},
};
use crate::domain::relay_state::State;

/// An agent's JSON-RPC answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The `result`, in the agent's version.
    Result(Value),
    /// The `error`, which is the same in every version.
    Error(Value),
}

impl Outcome {
    /// # Errors
    /// [`RpcError`] `-32006` if the body is not a JSON-RPC answer.
    pub fn parse(body: &[u8]) -> Result<Self, RpcError> {
        let bad = || RpcError::new(Code::InvalidAgentResponse, "the agent's answer is not JSON-RPC");
        let mut answer: Value = serde_json::from_slice(body).map_err(|_| bad())?;
        match (answer.get_mut("result").map(Value::take), answer.get_mut("error").map(Value::take)) {
            (_, Some(error @ Value::Object(_))) => Ok(Self::Error(error)),
            (Some(result @ Value::Object(_)), None | Some(Value::Null)) => Ok(Self::Result(result)),
            _ => Err(bad()),
        }
    }

    pub fn to_stored(&self) -> Value {
        match self {
            Self::Result(result) => json!({ "result": result }),
            Self::Error(error) => json!({ "error": error }),
        }
    }

    pub fn from_stored(mut stored: Value) -> Option<Self> {
        match (stored.get_mut("result").map(Value::take), stored.get_mut("error").map(Value::take)) {
            (Some(result), None) => Some(Self::Result(result)),
            (None, Some(error)) => Some(Self::Error(error)),
            _ => None,
        }
    }

    /// Returns the JSON-RPC answer for the caller: a result is translated from the agent's version `from` to
    /// the caller's, an error is passed on unchanged.
    ///
    /// # Errors
    /// [`RpcError`] `-32006` if the result does not fit the method.
    pub fn answer(&self, envelope: &Envelope, from: Version) -> Result<Value, RpcError> {
        match self {
            Self::Error(error) => Ok(json!({ "jsonrpc": "2.0", "id": envelope.id, "error": error })),
            Self::Result(result) => result_for(&envelope.call, result, from, envelope.version)
                .map(|result| json!({ "jsonrpc": "2.0", "id": envelope.id, "result": result }))
                .ok_or_else(|| {
                    RpcError::new(Code::InvalidAgentResponse, "the agent's result is not one of this method")
                        .with_id(&envelope.id)
                }),
        }
    }
}

/// The state of a task that represents a stored message; the caller polls it until the agent has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskState {
    Submitted,
    Working,
    Failed,
    Canceled,
}

impl TaskState {
    const fn word(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Submitted, Version::V03) => "submitted",
            (Self::Submitted, Version::V10) => "TASK_STATE_SUBMITTED",
            (Self::Working, Version::V03) => "working",
            (Self::Working, Version::V10) => "TASK_STATE_WORKING",
            (Self::Failed, Version::V03) => "failed",
            (Self::Failed, Version::V10) => "TASK_STATE_FAILED",
            (Self::Canceled, Version::V03) => "canceled",
            (Self::Canceled, Version::V10) => "TASK_STATE_CANCELED",
        }
    }
}

/// The parts of a stored message from which the relay builds the task that represents it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredMessage<'a> {
    /// The id in the relay, which is the id of the task.
    pub id: &'a str,
    pub ids: &'a MessageIds,
    pub state: State,
    /// Code of the latest problem; may be empty.
    pub code: &'a str,
    pub answer: Option<(&'a Outcome, Version)>,
}

impl StoredMessage<'_> {
    /// Builds the answer to a message that the agent has not answered yet: a task with the id of the stored
    /// message.
    pub(crate) fn queued_task(&self, envelope: &Envelope) -> Value {
        let state = if self.state == State::Dispatched { TaskState::Working } else { TaskState::Submitted };
        let metadata = json!({ "queued": true, "state": self.state.word() });
        let task = self.task(state, metadata, envelope.version);
        json!({ "jsonrpc": "2.0", "id": envelope.id, "result": wrapped(true, task, envelope.version) })
    }

    /// Builds the answer to a caller that asks for a stored message as a task: the agent's own task if the
    /// agent answered with one, otherwise a task that represents the message.
    pub(crate) fn task_of(&self, envelope: &Envelope) -> Value {
        let version = envelope.version;
        let task_in = |state| {
            let mut metadata = json!({ "state": self.state.word() });
            if !self.code.is_empty() {
                metadata["code"] = self.code.into();
            }
            self.task(state, metadata, version)
        };
        let result = match (self.answer, self.state) {
            (Some((Outcome::Result(result), from)), _) => self.answered(result, from, version),
            (Some((Outcome::Error(error), _)), _) => {
                let mut task = task_in(TaskState::Failed);
                task["metadata"]["steward"]["error"] = error.clone();
                Some(task)
            }
            (None, State::Queued) => Some(task_in(TaskState::Submitted)),
            (None, State::Dispatched) => Some(task_in(TaskState::Working)),
            (None, State::Dropped) => Some(task_in(TaskState::Canceled)),
            (None, State::Delivered | State::Failed | State::Expired) => None,
        };
        let result = result.unwrap_or_else(|| task_in(TaskState::Failed));
        json!({ "jsonrpc": "2.0", "id": envelope.id, "result": result })
    }

    /// Returns the agent's own task, or builds a completed task from the agent's message; `None` if the
    /// result is neither.
    fn answered(&self, result: &Value, from: Version, to: Version) -> Option<Value> {
        let (is_task, _) = unwrapped(result, from)?;
        let sent = Call::Send { params: Value::Null, ids: self.ids.clone() };
        let result = result_for(&sent, result, from, to)?;
        let (_, inner) = unwrapped(&result, to)?;
        if is_task {
            return Some(inner.clone());
        }
        let state = if to == Version::V03 { "completed" } else { "TASK_STATE_COMPLETED" };
        let mut task = self.task(TaskState::Working, json!({ "state": "delivered" }), to);
        task["status"] = json!({ "state": state, "message": inner });
        Some(task)
    }

    fn task(&self, state: TaskState, metadata: Value, version: Version) -> Value {
        // A message without a context id is a conversation of its own, named by the message id.
        let context = self.ids.context.as_ref().unwrap_or(&self.ids.message);
        let mut task = json!({
            "id": self.id,
            "contextId": context,
            "status": { "state": state.word(version) },
            "metadata": { "steward": metadata },
        });
        if version == Version::V03 {
            task["kind"] = "task".into();
        }
        task
    }
}
