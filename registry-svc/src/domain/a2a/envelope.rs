//! Reads a caller's JSON-RPC request: checks it, repairs it and recognises its method.

use serde_json::{Map, Value, json};

use super::{Code, RpcError, Version};

/// Maximum bytes of the id of a message, context or task.
const MAX_ID: usize = 256;

/// Maximum parts of a message.
const MAX_PARTS: usize = 1000;

/// A checked and repaired request.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The JSON-RPC id, as the caller wrote it.
    pub id: Value,
    pub version: Version,
    pub call: Call,
}

/// The method of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Send { params: Value, ids: MessageIds },
    GetTask { task: String, params: Value },
    CancelTask { task: String, params: Value },
}

/// The ids by which the relay deduplicates and orders messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageIds {
    /// The A2A message id; the same message sent again has the same id.
    pub message: String,
    /// The A2A context id, which names the conversation.
    pub context: Option<String>,
}

/// Reads a request. A message without an id gets `fresh_id`.
///
/// # Errors
/// [`RpcError`] if it is not a JSON-RPC request of a supported method with valid parameters.
pub(crate) fn parse(version: Version, body: &[u8], fresh_id: &str) -> Result<Envelope, RpcError> {
    let body: Value =
        serde_json::from_slice(body).map_err(|_| RpcError::new(Code::Parse, "body is not JSON"))?;
    let Value::Object(mut request) = body else {
        return Err(RpcError::new(Code::InvalidRequest, "body must be one JSON-RPC request object"));
    };
    let id = request.remove("id").unwrap_or(Value::Null);
    if !matches!(id, Value::Null | Value::String(_) | Value::Number(_)) {
        return Err(RpcError::new(Code::InvalidRequest, "id must be a string, a number or null"));
    }
    read(version, request, fresh_id)
        .map(|call| Envelope { id: id.clone(), version, call })
        .map_err(|error| error.with_id(&id))
}

fn read(version: Version, mut request: Map<String, Value>, fresh_id: &str) -> Result<Call, RpcError> {
    // Real 0.2 clients leave `jsonrpc` out.
    if request.get("jsonrpc").is_some_and(|jsonrpc| jsonrpc != "2.0") {
        return Err(RpcError::new(Code::InvalidRequest, "jsonrpc must be \"2.0\""));
    }
    let method = match request.get("method") {
        Some(Value::String(method)) => method.clone(),
        Some(_) | None => return Err(RpcError::new(Code::InvalidRequest, "method must be a string")),
    };
    let params = request.remove("params").unwrap_or_else(|| json!({}));
    let Value::Object(params) = params else { return Err(invalid("params must be an object")) };
    match (version, method.as_str()) {
        (Version::V03, "message/send") | (Version::V10, "SendMessage") => send(version, params, fresh_id),
        (Version::V03, "tasks/get") | (Version::V10, "GetTask") => {
            Ok(Call::GetTask { task: task_id(&params)?, params: params.into() })
        }
        (Version::V03, "tasks/cancel") | (Version::V10, "CancelTask") => {
            Ok(Call::CancelTask { task: task_id(&params)?, params: params.into() })
        }
        (
            Version::V03,
            "message/stream"
            | "tasks/resubscribe"
            | "tasks/pushNotificationConfig/set"
            | "tasks/pushNotificationConfig/get"
            | "tasks/pushNotificationConfig/list"
            | "tasks/pushNotificationConfig/delete"
            | "agent/getAuthenticatedExtendedCard",
        )
        | (
            Version::V10,
            "SendStreamingMessage"
            | "SubscribeToTask"
            | "ListTasks"
            | "CreateTaskPushNotificationConfig"
            | "GetTaskPushNotificationConfig"
            | "ListTaskPushNotificationConfigs"
            | "DeleteTaskPushNotificationConfig"
            | "GetExtendedAgentCard",
        ) => Err(RpcError::new(Code::Unsupported, format!("{method} is not relayed"))),
        (_, _) => Err(RpcError::new(
            Code::MethodNotFound,
            format!("A2A {} has no such method; is A2A-Version right?", version.header()),
        )),
    }
}

fn invalid(message: impl Into<String>) -> RpcError {
    RpcError::new(Code::InvalidParams, message)
}

fn task_id(params: &Map<String, Value>) -> Result<String, RpcError> {
    id_of(params, "id")?.ok_or_else(|| invalid("params.id is required"))
}

/// Returns an optional id; an empty one counts as absent.
fn id_of(object: &Map<String, Value>, key: &str) -> Result<Option<String>, RpcError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.len() > MAX_ID => {
            Err(invalid(format!("{key} has more than 256 bytes")))
        }
        Some(Value::String(id)) if id.chars().any(char::is_control) => {
            Err(invalid(format!("{key} contains control characters")))
        }
        Some(Value::String(id)) => Ok(Some(id.clone()).filter(|id| !id.is_empty())),
        Some(_) => Err(invalid(format!("{key} must be a string"))),
    }
}

fn send(version: Version, mut params: Map<String, Value>, fresh_id: &str) -> Result<Call, RpcError> {
    let Some(Value::Object(mut message)) = params.remove("message") else {
        return Err(invalid("params.message must be an object"));
    };
    if version == Version::V03 {
        repair(&mut message)?;
    }
    let parts = match message.get("parts") {
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(invalid("message.parts must be an array")),
        None => {
            return Err(invalid(
                r#"message needs parts, as {"role":"user","parts":[{"kind":"text","text":"hello"}]}"#,
            ));
        }
    };
    if parts.is_empty() || parts.len() > MAX_PARTS {
        return Err(invalid("message.parts must have 1 to 1000 entries"));
    }
    if let Some(at) = parts.iter().position(|part| !is_part(version, part)) {
        return Err(invalid(format!("message.parts[{at}] is no part of A2A {}", version.header())));
    }
    let role = message.entry("role").or_insert_with(|| user(version).into());
    if !role.as_str().is_some_and(|role| is_role(version, role)) {
        return Err(invalid(format!("message.role is no role of A2A {}", version.header())));
    }
    let id = id_of(&message, "messageId")?.unwrap_or_else(|| fresh_id.to_owned());
    message.insert("messageId".to_owned(), id.clone().into());
    let ids = MessageIds { message: id, context: id_of(&message, "contextId")? };
    params.insert("message".to_owned(), message.into());
    Ok(Call::Send { params: params.into(), ids })
}

/// Repairs what 0.2 clients send: `content` becomes `parts`, a part's `type` becomes `kind`.
fn repair(message: &mut Map<String, Value>) -> Result<(), RpcError> {
    let content = message.remove("content");
    if !message.contains_key("parts") {
        match content {
            Some(Value::String(text)) => {
                message.insert("parts".to_owned(), json!([{ "kind": "text", "text": text }]));
            }
            Some(Value::Array(parts)) => {
                message.insert("parts".to_owned(), parts.into());
            }
            Some(_) => return Err(invalid("message.content must be a string or an array of parts")),
            None => {}
        }
    }
    for part in message.get_mut("parts").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(part) = part
            && !part.contains_key("kind")
            && let Some(kind) = part.remove("type")
        {
            part.insert("kind".to_owned(), kind);
        }
    }
    message.entry("kind").or_insert_with(|| "message".into());
    Ok(())
}

fn is_part(version: Version, part: &Value) -> bool {
    let Value::Object(part) = part else { return false };
    match version {
        Version::V03 => match part.get("kind").and_then(Value::as_str) {
            Some("text") => part.get("text").is_some_and(Value::is_string),
            Some("file") => part.get("file").is_some_and(Value::is_object),
            Some("data") => part.contains_key("data"),
            Some(_) | None => false,
        },
        // A part of 1.0 has exactly one of the four kinds of content.
        Version::V10 => {
            ["text", "raw", "url", "data"].iter().filter(|key| part.contains_key(**key)).count() == 1
        }
    }
}

const fn user(version: Version) -> &'static str {
    match version {
        Version::V03 => "user",
        Version::V10 => "ROLE_USER",
    }
}

fn is_role(version: Version, role: &str) -> bool {
    match version {
        Version::V03 => matches!(role, "user" | "agent"),
        Version::V10 => matches!(role, "ROLE_USER" | "ROLE_AGENT"),
    }
}
