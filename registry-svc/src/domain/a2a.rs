//! The agent-to-agent protocol (A2A), as far as the relay needs it: JSON-RPC requests of versions 0.2, 0.3
//! and 1.0 in one form, and the translation between the versions.
//!
//! The relay accepts what real 0.2 clients leave out or name differently: `jsonrpc`, the message's id and
//! role, `content` instead of `parts`. Other faults that it finds are JSON-RPC errors with the request's id.

mod envelope;
mod result;
mod translate;

use serde_json::{Value, json};

pub(crate) use self::{
    envelope::{Call, Envelope, MessageIds, parse},
    result::{Outcome, StoredMessage},
    translate::{params_for, result_for},
};

/// A family of A2A versions with the same messages. 0.2 is repaired and handled as 0.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// 0.2 and 0.3: `message/send`, `kind`, lower-case enums.
    V03,
    /// 1.0: `SendMessage`, flat parts, upper-case enums.
    V10,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::V03, Self::V10];

    /// Parses a caller's `A2A-Version` header; an empty one means 0.3.
    ///
    /// # Errors
    /// [`RpcError`] `-32009` if the relay does not support that version.
    pub fn asked(header: &str) -> Result<Self, RpcError> {
        let mut parts = header.trim().split('.');
        match (parts.next(), parts.next()) {
            (Some(""), None) => Ok(Self::V03),
            (Some("0"), Some("2" | "3")) => Ok(Self::V03),
            (Some("1"), Some("0")) => Ok(Self::V10),
            _ => Err(RpcError::new(Code::VersionNotSupported, "this A2A version is not supported")),
        }
    }

    /// Returns the version that an agent's card states for `url`. If the card states none for this URL,
    /// returns the newest version in the card; if the card states no version, 0.3.
    pub fn of_card(card: Option<&Value>, url: &str) -> Self {
        let Some(card) = card else { return Self::V03 };
        let interfaces = card.get("supportedInterfaces").and_then(Value::as_array);
        let spoken = interfaces.into_iter().flatten().filter(|interface| {
            interface
                .get("protocolBinding")
                .and_then(Value::as_str)
                .is_none_or(|binding| binding == "JSONRPC")
        });
        let places: Vec<_> = spoken
            .chain([card])
            .filter_map(|place| Some((place.get("url"), place.get("protocolVersion")?.as_str()?)))
            .collect();
        let here = places.iter().find(|(at, _)| at.and_then(Value::as_str) == Some(url));
        let is_new = |version: &str| version.starts_with("1.");
        let new = match here {
            Some((_, version)) => is_new(version),
            None => places.iter().any(|(_, version)| is_new(version)),
        };
        if new { Self::V10 } else { Self::V03 }
    }

    /// Returns the value of the `A2A-Version` header.
    pub const fn header(self) -> &'static str {
        match self {
            Self::V03 => "0.3",
            Self::V10 => "1.0",
        }
    }
}

/// A JSON-RPC error code of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    Parse,
    /// The body is not a JSON-RPC request.
    InvalidRequest,
    MethodNotFound,
    InvalidParams,
    TaskNotFound,
    /// The message was sent to the agent already, or has ended.
    TaskNotCancelable,
    /// The relay does not translate push notification settings.
    PushNotSupported,
    /// The relay does not pass on this method.
    Unsupported,
    /// The agent's answer is not JSON-RPC, or too long.
    InvalidAgentResponse,
    VersionNotSupported,
    /// The agent was not reached.
    Unreachable,
}

impl Code {
    pub const fn number(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::TaskNotFound => -32001,
            Self::TaskNotCancelable => -32002,
            Self::PushNotSupported => -32003,
            Self::Unsupported => -32004,
            Self::InvalidAgentResponse => -32006,
            Self::VersionNotSupported => -32009,
            Self::Unreachable => -32603,
        }
    }

    /// Returns the HTTP status of an answer with this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::TaskNotFound => 404,
            Self::InvalidAgentResponse => 502,
            Self::Unreachable => 503,
            Self::Parse
            | Self::InvalidRequest
            | Self::MethodNotFound
            | Self::InvalidParams
            | Self::TaskNotCancelable
            | Self::PushNotSupported
            | Self::Unsupported
            | Self::VersionNotSupported => 400,
        }
    }
}

/// An error that the caller gets as a JSON-RPC answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} ({})", .code.number())]
pub struct RpcError {
    pub code: Code,
    pub message: String,
    /// Id of the request; null if it is unreadable.
    pub id: Value,
}

impl RpcError {
    /// Builds an error without a request id.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: Value::Null }
    }

    /// Returns the error with the id of its request.
    pub fn with_id(self, id: &Value) -> Self {
        Self { id: id.clone(), ..self }
    }

    pub fn member(&self) -> Value {
        json!({ "code": self.code.number(), "message": self.message })
    }
}

#[cfg(test)]
mod tests;
