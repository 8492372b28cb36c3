//! The built-in tools: what a model is told about them, and how its calls are read.

use serde_json::Value;

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
