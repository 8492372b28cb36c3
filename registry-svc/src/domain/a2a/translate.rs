//! Translates between the A2A versions: renames what the versions name differently and removes `kind` and
//! `tenant` where the other version lacks them. Other fields are passed on unchanged.

use serde_json::{Map, Value, json};

use super::{Call, Code, RpcError, Version};

/// States of a task in 0.3 and in 1.0.
const STATES: [(&str, &str); 9] = [
    ("submitted", "TASK_STATE_SUBMITTED"),
    ("working", "TASK_STATE_WORKING"),
    ("input-required", "TASK_STATE_INPUT_REQUIRED"),
    ("auth-required", "TASK_STATE_AUTH_REQUIRED"),
    ("completed", "TASK_STATE_COMPLETED"),
    ("failed", "TASK_STATE_FAILED"),
    ("canceled", "TASK_STATE_CANCELED"),
    ("rejected", "TASK_STATE_REJECTED"),
    ("unknown", "TASK_STATE_UNSPECIFIED"),
];

/// Roles in 0.3 and in 1.0.
const ROLES: [(&str, &str); 2] = [("user", "ROLE_USER"), ("agent", "ROLE_AGENT")];

const fn method(call: &Call, version: Version) -> &'static str {
    match (call, version) {
        (Call::Send { .. }, Version::V03) => "message/send",
        (Call::Send { .. }, Version::V10) => "SendMessage",
        (Call::GetTask { .. }, Version::V03) => "tasks/get",
        (Call::GetTask { .. }, Version::V10) => "GetTask",
        (Call::CancelTask { .. }, Version::V03) => "tasks/cancel",
        (Call::CancelTask { .. }, Version::V10) => "CancelTask",
    }
}

/// Translates the method and parameters of a call from version `from` to `to`.
///
/// # Errors
/// [`RpcError`] `-32003` if the call carries push notification settings and the versions differ.
pub(crate) fn params_for(call: &Call, from: Version, to: Version) -> Result<(&'static str, Value), RpcError> {
    let (Call::Send { params, .. } | Call::GetTask { params, .. } | Call::CancelTask { params, .. }) = call;
    let method = method(call, to);
    if from == to {
        return Ok((method, params.clone()));
    }
    let Value::Object(params) = params else { return Ok((method, params.clone())) };
    let mut params = params.clone();
    // A field of A2A 1.0 only, for an agent that serves several tenants at one URL; 0.3 has no equivalent.
    params.remove("tenant");
    if let Some(message) = params.get_mut("message") {
        *message = message_for(message, to);
    }
    if let Some(Value::Object(configuration)) = params.get_mut("configuration") {
        configure(configuration, to)?;
    }
    Ok((method, params.into()))
}

fn configure(configuration: &mut Map<String, Value>, to: Version) -> Result<(), RpcError> {
    if ["pushNotificationConfig", "taskPushNotificationConfig"]
        .iter()
        .any(|key| configuration.contains_key(*key))
    {
        let problem = "push notifications are not passed on to an agent of another A2A version";
        return Err(RpcError::new(Code::PushNotSupported, problem));
    }
    // 1.0 has the negation of the flag of 0.3.
    let (from, to) = match to {
        Version::V10 => ("blocking", "returnImmediately"),
        Version::V03 => ("returnImmediately", "blocking"),
    };
    if let Some(flag) = configuration.remove(from).as_ref().and_then(Value::as_bool) {
        configuration.insert(to.to_owned(), (!flag).into());
    }
    Ok(())
}

/// Translates the result of `call` from version `from` to `to`; `None` if it does not fit the method.
pub(crate) fn result_for(call: &Call, result: &Value, from: Version, to: Version) -> Option<Value> {
    match call {
        Call::Send { .. } => {
            let (is_task, inner) = unwrapped(result, from)?;
            let inner = match (from == to, is_task) {
                (true, _) => inner.clone(),
                (false, true) => task_for(inner, to),
                (false, false) => message_for(inner, to),
            };
            Some(wrapped(is_task, inner, to))
        }
        Call::GetTask { .. } | Call::CancelTask { .. } => {
            let task = result.as_object().filter(|task| task.contains_key("status"))?;
            let task = Value::Object(task.clone());
            Some(if from == to { task } else { task_for(&task, to) })
        }
    }
}

/// Returns the task or message in the result of sending, and whether it is a task; `None` if it is neither.
pub(super) fn unwrapped(result: &Value, version: Version) -> Option<(bool, &Value)> {
    match version {
        Version::V03 => match result.get("kind").and_then(Value::as_str) {
            Some("task") => Some((true, result)),
            Some("message") => Some((false, result)),
            // Real 0.2 agents leave `kind` out.
            Some(_) | None if result.get("status").is_some_and(Value::is_object) => Some((true, result)),
            Some(_) | None if result.get("parts").is_some_and(Value::is_array) => Some((false, result)),
            Some(_) | None => None,
        },
        Version::V10 => match (result.get("task"), result.get("message")) {
            (Some(task @ Value::Object(_)), None) => Some((true, task)),
            (None, Some(message @ Value::Object(_))) => Some((false, message)),
            _ => None,
        },
    }
}

/// Wraps a task or message as `version` does in the result of sending.
pub(super) fn wrapped(is_task: bool, inner: Value, version: Version) -> Value {
    match (version, is_task) {
        (Version::V10, true) => json!({ "task": inner }),
        (Version::V10, false) => json!({ "message": inner }),
        (Version::V03, _) => inner,
    }
}

fn renamed(word: &Value, names: &[(&'static str, &'static str)], to: Version) -> Value {
    let found = word.as_str().and_then(|word| names.iter().find(|(old, new)| *old == word || *new == word));
    match (found, to) {
        (Some((old, _)), Version::V03) => (*old).into(),
        (Some((_, new)), Version::V10) => (*new).into(),
        (None, _) => word.clone(),
    }
}

fn kind(object: &mut Map<String, Value>, kind: &str, to: Version) {
    match to {
        Version::V03 => drop(object.insert("kind".to_owned(), kind.into())),
        Version::V10 => drop(object.remove("kind")),
    }
}

fn message_for(message: &Value, to: Version) -> Value {
    let Value::Object(message) = message else { return message.clone() };
    let mut message = message.clone();
    kind(&mut message, "message", to);
    if let Some(role) = message.get_mut("role") {
        *role = renamed(role, &ROLES, to);
    }
    parts_in(&mut message, to);
    message.into()
}

fn parts_in(object: &mut Map<String, Value>, to: Version) {
    for part in object.get_mut("parts").and_then(Value::as_array_mut).into_iter().flatten() {
        *part = part_for(part, to);
    }
}

fn task_for(task: &Value, to: Version) -> Value {
    let Value::Object(task) = task else { return task.clone() };
    let mut task = task.clone();
    kind(&mut task, "task", to);
    if let Some(Value::Object(status)) = task.get_mut("status") {
        if let Some(state) = status.get_mut("state") {
            *state = renamed(state, &STATES, to);
        }
        if let Some(message) = status.get_mut("message") {
            *message = message_for(message, to);
        }
    }
    for message in task.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        *message = message_for(message, to);
    }
    for artifact in task.get_mut("artifacts").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(artifact) = artifact {
            parts_in(artifact, to);
        }
    }
    task.into()
}

fn part_for(part: &Value, to: Version) -> Value {
    let Value::Object(part) = part else { return part.clone() };
    match to {
        Version::V10 => part_for_10(part),
        Version::V03 => part_for_03(part),
    }
}

/// Translates `{kind: file, file: {bytes | uri, mimeType, name}}` to `{raw | url, mediaType, filename}`.
fn part_for_10(part: &Map<String, Value>) -> Value {
    let mut new = part.clone();
    new.remove("kind");
    if let Some(Value::Object(file)) = new.remove("file") {
        for (old, key) in [("bytes", "raw"), ("uri", "url"), ("mimeType", "mediaType"), ("name", "filename")]
        {
            if let Some(value) = file.get(old) {
                new.insert(key.to_owned(), value.clone());
            }
        }
    }
    new.into()
}

fn part_for_03(part: &Map<String, Value>) -> Value {
    let mut new = part.clone();
    let media_type = new.remove("mediaType");
    let name = new.remove("filename");
    let content = [("raw", "bytes"), ("url", "uri")]
        .into_iter()
        .find_map(|(new_key, old)| new.remove(new_key).map(|value| (old, value)));
    if let Some((key, value)) = content {
        let mut file = Map::from_iter([(key.to_owned(), value)]);
        for (key, value) in [("mimeType", media_type), ("name", name)] {
            if let Some(value) = value {
                file.insert(key.to_owned(), value);
            }
        }
        new.insert("kind".to_owned(), "file".into());
        new.insert("file".to_owned(), file.into());
    } else {
        let kind = if new.contains_key("text") { "text" } else { "data" };
        new.insert("kind".to_owned(), kind.into());
    }
    new.into()
}
