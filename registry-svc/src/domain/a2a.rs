//! The agent-to-agent protocol, as far as a relay has to understand it: JSON-RPC requests of versions 0.2, 0.3 and
//! 1.0, brought into one form, and what changes between the versions.
//!
//! Nothing here is lenient by accident: whatever is repaired (a message without an id, `content` instead of
//! `parts`) is what real 0.2 clients send, and everything else is an error that carries the request's id.

mod envelope;
mod result;
mod translate;

use std::fmt;

use serde_json::{Value, json};

pub use self::{
    envelope::{Call, Envelope, MessageIds, parse},
    result::{Outcome, queued_task, task_of},
    translate::{params_for, result_for},
};

/// A family of versions that speak alike. 0.2 is spoken as 0.3, after repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// 0.2 and 0.3: `message/send`, `kind`, lower-case enums.
    V03,
    /// 1.0: `SendMessage`, flat parts, upper-case enums.
    V10,
}

impl Version {
    /// Every version.
    pub const ALL: [Self; 2] = [Self::V03, Self::V10];

    /// The version that a caller's `A2A-Version` names; nothing means 0.3.
    ///
    /// # Errors
    /// [`RpcError`] `-32009` for one that is not spoken here.
    pub fn asked(header: &str) -> Result<Self, RpcError> {
        let mut parts = header.trim().split('.');
        match (parts.next(), parts.next()) {
            (Some(""), None) => Ok(Self::V03),
            (Some("0"), Some("2" | "3")) => Ok(Self::V03),
            (Some("1"), Some("0")) => Ok(Self::V10),
            _ => Err(RpcError::new(Code::VersionNotSupported, "this A2A version is not supported")),
        }
    }

    /// The version that an agent speaks at `url`, by its card: what the card says of that URL, else the newest it
    /// speaks anywhere; 0.3 if it does not say.
    #[must_use]
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

    /// As it stands in an `A2A-Version` header.
    #[must_use]
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
    /// The body is no JSON.
    Parse,
    /// The body is no JSON-RPC request.
    InvalidRequest,
    /// There is no such method.
    MethodNotFound,
    /// The parameters are wrong.
    InvalidParams,
    /// There is no such task.
    TaskNotFound,
    /// The task cannot be canceled any more.
    TaskNotCancelable,
    /// The relay does not pass push notifications on.
    PushNotSupported,
    /// The operation is not relayed.
    Unsupported,
    /// The agent's answer makes no sense.
    InvalidAgentResponse,
    /// The version is not spoken.
    VersionNotSupported,
    /// The agent could not be asked.
    Unreachable,
}

impl Code {
    /// Its number.
    #[must_use]
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

    /// HTTP status that goes with it.
    #[must_use]
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

/// An error that is answered to the caller as JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcError {
    /// Its code.
    pub code: Code,
    /// What the caller reads.
    pub message: String,
    /// Id of the request, as far as it could be read.
    pub id: Value,
}

impl RpcError {
    /// An error whose request's id is not known yet.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: Value::Null }
    }

    /// The same error, for this request.
    #[must_use]
    pub fn of(self, id: &Value) -> Self {
        Self { id: id.clone(), ..self }
    }

    /// Its `error` member.
    #[must_use]
    pub fn member(&self) -> Value {
        json!({ "code": self.code.number(), "message": self.message })
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.number())
    }
}

impl std::error::Error for RpcError {}

#[cfg(test)]
mod tests;
