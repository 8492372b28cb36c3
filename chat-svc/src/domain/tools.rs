//! The built-in tools: their specifications for models, the parser of calls, and the text of results.
//!
//! Calls are parsed strictly: an unknown argument is an error, and every error is a sentence that the model
//! can act on. Results are bounded, and say what was left out. This module runs nothing.

mod result;

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

pub(crate) use result::{Entry, EntryKind, ExecResult, Outcome, Rendered};

use super::message::ToolCall;

pub(crate) const MAX_COMMAND_BYTES: usize = 64 * 1024;
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// Maximum bytes that one call writes.
pub(crate) const MAX_WRITE_BYTES: usize = 1024 * 1024;
/// Timeout of a command that sets none.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum timeout of a command.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// Specification of a tool for models.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolSpec {
    /// Letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// Tells the model what the tool does and when to use it.
    pub description: String,
    /// JSON Schema of its arguments: an object.
    pub parameters: Value,
}

/// A checked call of a built-in tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    Read(ReadTool),
    Act(ActTool),
}

/// A call without effect: it may be repeated. Paths are absolute, or relative to the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadTool {
    ReadFile {
        path: String,
    },
    /// An empty path is the workspace.
    ListFiles {
        path: String,
    },
}

/// A call with an effect: it is journaled, sent with a key, and never repeated under another key while it may
/// have run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ActTool {
    /// Runs `command` with `sh -c`; the guest kills it after `timeout`.
    Shell { command: String, timeout: Duration },
    /// Replaces the file at `path`.
    WriteFile { path: String, content: String },
}

/// The names of the built-in tools.
pub(crate) const NAMES: [&str; 4] = ["shell", "read_file", "write_file", "list_files"];

/// Why a call is refused. `Display` is the text for the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCall {
    #[error(
        "There is no tool named {:?}. The tools are: {}.",
        .name.chars().take(64).collect::<String>(), NAMES.join(", ")
    )]
    UnknownTool { name: String },
    #[error("The call of {tool} was not made: {problem}. Correct the arguments and call it again.")]
    BadArguments { tool: &'static str, problem: String },
}

impl BuiltIn {
    /// Parses a model's call.
    ///
    /// # Errors
    /// [`BadCall`] if the tool is unknown or an argument is wrong.
    pub(crate) fn parse(call: &ToolCall) -> Result<Self, BadCall> {
        match call.name.as_str() {
            "shell" => arguments::<Shell>("shell", call)?.check("shell"),
            "read_file" => {
                let Path { path } = arguments("read_file", call)?;
                Ok(Self::Read(ReadTool::ReadFile { path: required_path("read_file", path)? }))
            }
            "write_file" => arguments::<WriteFile>("write_file", call)?.check("write_file"),
            "list_files" => {
                let OptionalPath { path } = arguments("list_files", call)?;
                let path = checked_path("list_files", path.unwrap_or_default())?;
                Ok(Self::Read(ReadTool::ListFiles { path }))
            }
            other => Err(BadCall::UnknownTool { name: other.to_owned() }),
        }
    }
}

impl ActTool {
    /// Returns the longest time that the call may run; zero for writing a file, which takes no noticeable
    /// time.
    pub(crate) const fn longest(&self) -> Duration {
        match self {
            Self::Shell { timeout, .. } => *timeout,
            Self::WriteFile { .. } => Duration::ZERO,
        }
    }
}

/// Specifications of the built-in tools for models.
pub(crate) fn specs() -> Vec<ToolSpec> {
    let path = |what: &str| {
        let description = format!("{what}, absolute or relative to /workspace.");
        json!({ "type": "string", "description": description })
    };
    let spec = |name: &str, description: &str, required: &[&str], properties: Value| ToolSpec {
        name: name.to_owned(),
        description: description.to_owned(),
        parameters: json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }),
    };
    vec![
        spec(
            "shell",
            "Runs a command with sh -c in the session's sandbox, in /workspace, and returns its exit code \
             and output. Every call is a new shell: a cd or a variable does not carry over. There is no \
             terminal, so interactive programs do not work.",
            &["command"],
            json!({
                "command": { "type": "string", "description": "The command line." },
                "timeout_seconds": {
                    "type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT.as_secs(),
                    "description": format!("Kill it after this long; default {}.", DEFAULT_TIMEOUT.as_secs()),
                },
            }),
        ),
        spec(
            "read_file",
            "Returns the content of a text file in the session's sandbox.",
            &["path"],
            json!({ "path": path("The file") }),
        ),
        spec(
            "write_file",
            "Writes a text file in the session's sandbox. It replaces the file if there is one and makes \
             missing directories.",
            &["path", "content"],
            json!({
                "path": path("The file"),
                "content": { "type": "string", "description": "Everything the file will hold." },
            }),
        ),
        spec(
            "list_files",
            "Lists a directory in the session's sandbox: names, kinds and sizes.",
            &[],
            json!({ "path": path("The directory; /workspace if left out") }),
        ),
    ]
}

/// Parses arguments into a tool's struct; serde's message names the wrong argument.
fn arguments<T: DeserializeOwned>(tool: &'static str, call: &ToolCall) -> Result<T, BadCall> {
    // Parses into a map first, because serde also accepts an array for a struct.
    serde_json::from_str::<Map<String, Value>>(&call.arguments)
        .and_then(|arguments| serde_json::from_value(Value::Object(arguments)))
        .map_err(|error| {
            let text = error.to_string();
            // Drops the position: "… at line 1 column 12" does not help a model that wrote an object.
            let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
            bad(tool, format!("its arguments are wrong ({problem})"))
        })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shell {
    command: String,
    timeout_seconds: Option<u64>,
}

impl Shell {
    fn check(self, tool: &'static str) -> Result<BuiltIn, BadCall> {
        let command = bounded(tool, "command", self.command, MAX_COMMAND_BYTES)?;
        if command.trim().is_empty() {
            return Err(bad(tool, "command must not be empty"));
        }
        let timeout = self.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            return Err(bad(tool, format!("timeout_seconds must be 1 to {}", MAX_TIMEOUT.as_secs())));
        }
        Ok(BuiltIn::Act(ActTool::Shell { command, timeout }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionalPath {
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    content: String,
}

impl WriteFile {
    fn check(self, tool: &'static str) -> Result<BuiltIn, BadCall> {
        if self.content.len() > MAX_WRITE_BYTES {
            return Err(bad(tool, format!("content must have at most {MAX_WRITE_BYTES} bytes")));
        }
        let path = required_path(tool, self.path)?;
        Ok(BuiltIn::Act(ActTool::WriteFile { path, content: self.content }))
    }
}

fn required_path(tool: &'static str, path: String) -> Result<String, BadCall> {
    if path.is_empty() {
        return Err(bad(tool, "path must not be empty"));
    }
    checked_path(tool, path)
}

fn checked_path(tool: &'static str, path: String) -> Result<String, BadCall> {
    bounded(tool, "path", path, MAX_PATH_BYTES)
}

fn bounded(tool: &'static str, argument: &str, text: String, most: usize) -> Result<String, BadCall> {
    if text.len() > most {
        return Err(bad(tool, format!("{argument} must have at most {most} bytes")));
    }
    if text.contains('\0') {
        return Err(bad(tool, format!("{argument} must not contain a NUL byte")));
    }
    Ok(text)
}

fn bad(tool: &'static str, problem: impl Into<String>) -> BadCall {
    BadCall::BadArguments { tool, problem: problem.into() }
}

#[cfg(test)]
mod tests;
