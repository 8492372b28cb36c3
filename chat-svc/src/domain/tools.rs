//! The built-in tools: what a model is told about them, how its calls are read, what it reads back.
//!
//! Calls are parsed strictly (an argument nobody knows is an error, not noise), and every error is a sentence
//! that the model can act on. Results are bounded, and say what was left out. This module runs nothing.

mod result;

use std::{fmt, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

pub use result::{Entry, EntryKind, ExecResult, MAX_RESULT_BYTES, Outcome, Rendered};

use super::step::ToolCall;

/// Longest command, bytes.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// Longest path, bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most bytes that one call writes.
pub const MAX_WRITE_BYTES: usize = 1024 * 1024;
/// How long a command may run if the model does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a command may run at most.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// What a model is told about a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, and when to use it, for the model to read.
    pub description: String,
    /// JSON Schema of its arguments: an object.
    pub parameters: Value,
}

/// A call of a built-in tool, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuiltIn {
    /// Runs a command.
    Shell {
        /// For `sh -c`.
        command: String,
        /// Killed after this long.
        timeout: Duration,
    },
    /// Reads a file.
    ReadFile {
        /// Absolute, or relative to the workspace.
        path: String,
    },
    /// Writes a file whole.
    WriteFile {
        /// Absolute, or relative to the workspace.
        path: String,
        /// What it will hold.
        content: String,
    },
    /// Lists a directory.
    ListFiles {
        /// Absolute, or relative to the workspace; empty is the workspace.
        path: String,
    },
}

/// The names of the built-in tools.
pub const NAMES: [&str; 4] = ["shell", "read_file", "write_file", "list_files"];

/// Why a call was not made. `Display` is what the model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadCall {
    /// There is no such tool.
    UnknownTool {
        /// The name it used.
        name: String,
    },
    /// The arguments are not what the tool takes.
    BadArguments {
        /// The tool.
        tool: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl std::error::Error for BadCall {}

impl fmt::Display for BadCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTool { name } => {
                let name: String = name.chars().take(64).collect();
                write!(f, "There is no tool named {name:?}. The tools are: {}.", NAMES.join(", "))
            }
            Self::BadArguments { tool, problem } => {
                write!(
                    f,
                    "The call of {tool} was not made: {problem}. Correct the arguments and call it again."
                )
            }
        }
    }
}

impl BuiltIn {
    /// Reads a model's call.
    ///
    /// # Errors
    /// [`BadCall`], whose text is meant for the model.
    pub fn parse(call: &ToolCall) -> Result<Self, BadCall> {
        match call.name.as_str() {
            "shell" => Shell::read("shell", call)?.check("shell"),
            "read_file" => {
                let Path { path } = Path::read("read_file", call)?;
                Ok(Self::ReadFile { path: required_path("read_file", path)? })
            }
            "write_file" => WriteFile::read("write_file", call)?.check("write_file"),
            "list_files" => {
                let OptionalPath { path } = OptionalPath::read("list_files", call)?;
                Ok(Self::ListFiles { path: checked_path("list_files", path.unwrap_or_default())? })
            }
            other => Err(BadCall::UnknownTool { name: other.to_owned() }),
        }
    }

    /// Whether running it twice is the same as running it once: it only reads.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        match self {
            Self::ReadFile { .. } | Self::ListFiles { .. } => true,
            Self::Shell { .. } | Self::WriteFile { .. } => false,
        }
    }

    /// The longest it can take once it was begun: beyond a command's timeout, nothing that matters.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        match self {
            Self::Shell { timeout, .. } => *timeout,
            Self::ReadFile { .. } | Self::WriteFile { .. } | Self::ListFiles { .. } => Duration::ZERO,
        }
    }
}

/// What models are told about the built-in tools.
#[must_use]
pub fn specs() -> Vec<ToolSpec> {
    let path = |what: &str| json!({ "type": "string", "description": format!("{what}, absolute or relative to /workspace.") });
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
            "Runs a command with sh -c in the session's sandbox, in /workspace, and returns its exit code and \
             output. Every call is a new shell: a cd or a variable does not carry over. There is no terminal, so \
             interactive programs do not work.",
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
            "Writes a text file in the session's sandbox. It replaces the file if there is one and makes missing \
             directories.",
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

/// Reads arguments into the shape a tool takes; serde's own words name the argument that is wrong.
trait Arguments: DeserializeOwned {
    fn read(tool: &'static str, call: &ToolCall) -> Result<Self, BadCall> {
        // By way of a map: serde would also take an array as a struct, in the order of its fields.
        serde_json::from_str::<Map<String, Value>>(&call.arguments)
            .and_then(|arguments| serde_json::from_value(Value::Object(arguments)))
            .map_err(|error| {
                let text = error.to_string();
                // "… at line 1 column 12" helps nobody who wrote an object, not a text.
                let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
                bad(tool, format!("its arguments are wrong ({problem})"))
            })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shell {
    command: String,
    timeout_seconds: Option<u64>,
}

impl Arguments for Shell {}

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
        Ok(BuiltIn::Shell { command, timeout })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    path: String,
}

impl Arguments for Path {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionalPath {
    path: Option<String>,
}

impl Arguments for OptionalPath {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    content: String,
}

impl Arguments for WriteFile {}

impl WriteFile {
    fn check(self, tool: &'static str) -> Result<BuiltIn, BadCall> {
        if self.content.len() > MAX_WRITE_BYTES {
            return Err(bad(tool, format!("content must have at most {MAX_WRITE_BYTES} bytes")));
        }
        Ok(BuiltIn::WriteFile { path: required_path(tool, self.path)?, content: self.content })
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
