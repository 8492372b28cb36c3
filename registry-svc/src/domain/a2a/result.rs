//! What a caller gets: the agent's answer, or a task that stands for a message on its way.

use serde_json::{Value, json};

use super::{
    Call, Code, Envelope, MessageIds, RpcError, Version, result_for,
    translate::{unwrapped, wrapped},
};

/// How an agent answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a result, in the agent's version.
    Result(Value),
    /// With a JSON-RPC error, whatever its version.
    Error(Value),
}

impl Outcome {
    /// Reads an agent's answer.
    ///
    /// # Errors
    /// [`RpcError`] `-32006` if it is no JSON-RPC answer.
    pub fn parse(body: &[u8]) -> Result<Self, RpcError> {
        let bad = || RpcError::new(Code::InvalidAgentResponse, "the agent's answer is not JSON-RPC");
        let mut answer: Value = serde_json::from_slice(body).map_err(|_| bad())?;
        match (answer.get_mut("result").map(Value::take), answer.get_mut("error").map(Value::take)) {
            (_, Some(error @ Value::Object(_))) => Ok(Self::Error(error)),
            (Some(result @ Value::Object(_)), None | Some(Value::Null)) => Ok(Self::Result(result)),
            _ => Err(bad()),
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_stored(&self) -> Value {
        match self {
            Self::Result(result) => json!({ "result": result }),
            Self::Error(error) => json!({ "error": error }),
        }
    }

    /// From how it was stored.
    #[must_use]
    pub fn from_stored(mut stored: Value) -> Option<Self> {
        match (stored.get_mut("result").map(Value::take), stored.get_mut("error").map(Value::take)) {
            (Some(result), None) => Some(Self::Result(result)),
            (None, Some(error)) => Some(Self::Error(error)),
            _ => None,
        }
    }

    /// The answer to `envelope`, of an agent that speaks `from`.
    ///
    /// # Errors
    /// [`RpcError`] `-32006` if the result is none of this call.
    pub fn answer(&self, envelope: &Envelope, from: Version) -> Result<Value, RpcError> {
        match self {
            Self::Error(error) => Ok(json!({ "jsonrpc": "2.0", "id": envelope.id, "error": error })),
            Self::Result(result) => result_for(&envelope.call, result, from, envelope.version)
                .map(|result| json!({ "jsonrpc": "2.0", "id": envelope.id, "result": result }))
                .ok_or_else(|| {
                    RpcError::new(Code::InvalidAgentResponse, "the agent's result is not one of this method")
                        .of(&envelope.id)
                }),
        }
    }
}

/// A task that stands for a message in the relay: what a caller polls until the agent has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Submitted,
    Working,
    Failed,
    Canceled,
}

impl Standing {
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

fn task(id: &str, ids: &MessageIds, standing: Standing, metadata: Value, version: Version) -> Value {
    // A conversation that the caller did not name is the message's own.
    let context = ids.context.as_ref().unwrap_or(&ids.message);
    let mut task = json!({
        "id": id,
        "contextId": context,
        "status": { "state": standing.word(version) },
        "metadata": { "steward": metadata },
    });
    if version == Version::V03 {
        task["kind"] = "task".into();
    }
    task
}

/// The answer to a message that is stored and not answered yet: a task with the id of the stored message.
#[must_use]
pub fn queued_task(envelope: &Envelope, id: &str, ids: &MessageIds, state: &str) -> Value {
    let standing = if state == "dispatched" { Standing::Working } else { Standing::Submitted };
    let task = task(id, ids, standing, json!({ "queued": true, "state": state }), envelope.version);
    json!({ "jsonrpc": "2.0", "id": envelope.id, "result": wrapped(true, task, envelope.version) })
}

/// The task that stands for a stored message, for a caller that asks for it by the message's id.
#[must_use]
pub fn task_of(
    envelope: &Envelope,
    id: &str,
    ids: &MessageIds,
    (state, code): (&str, &str),
    outcome: Option<(&Outcome, Version)>,
) -> Value {
    let version = envelope.version;
    let of_standing = |standing| {
        let mut metadata = json!({ "state": state });
        if !code.is_empty() {
            metadata["code"] = code.into();
        }
        task(id, ids, standing, metadata, version)
    };
    let result = match (state, outcome) {
        (_, Some((Outcome::Result(result), from))) => answered(id, ids, result, from, version),
        (_, Some((Outcome::Error(error), _))) => {
            let mut task = of_standing(Standing::Failed);
            task["metadata"]["steward"]["error"] = error.clone();
            Some(task)
        }
        ("queued", None) => Some(of_standing(Standing::Submitted)),
        ("dispatched", None) => Some(of_standing(Standing::Working)),
        ("dropped", None) => Some(of_standing(Standing::Canceled)),
        (_, None) => None,
    };
    let result = result.unwrap_or_else(|| of_standing(Standing::Failed));
    json!({ "jsonrpc": "2.0", "id": envelope.id, "result": result })
}

/// The agent's own task, or one that is completed by the agent's message.
fn answered(id: &str, ids: &MessageIds, result: &Value, from: Version, to: Version) -> Option<Value> {
    let (is_task, _) = unwrapped(result, from)?;
    let sent = Call::Send { params: Value::Null, ids: ids.clone() };
    let result = result_for(&sent, result, from, to)?;
    let (_, inner) = unwrapped(&result, to)?;
    if is_task {
        return Some(inner.clone());
    }
    let state = if to == Version::V03 { "completed" } else { "TASK_STATE_COMPLETED" };
    let mut task = task(id, ids, Standing::Working, json!({ "state": "delivered" }), to);
    task["status"] = json!({ "state": state, "message": inner });
    Some(task)
}
