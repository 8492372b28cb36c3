//! Reads and writes canonical proto3 JSON.
//!
//! Written: lowerCamelCase names, 64-bit integers as strings, enums by name, bytes as base64, times as RFC
//! 3339. Every scalar, list and map is written, also with its default value; a message is written if it is
//! set. Read: names in both spellings. An unknown or repeated name, a wrong type, or text after the value is
//! refused with the path of the field.

mod strict;

use std::borrow::Cow;

use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions,
};
use serde::de::IgnoredAny;
use serde_path_to_error::Track;

use crate::problem::Problem;

const READ: DeserializeOptions = DeserializeOptions::new();
const WRITE: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// Maximum characters of serde's text in a problem: serde quotes the whole invalid value.
const MAX_COMPLAINT: usize = 200;

/// Reads a JSON text as a message.
///
/// # Errors
/// 400 with the path of the invalid field.
pub(super) fn read(message: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Problem> {
    strict::check(message, text)?;
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    DynamicMessage::deserialize_with_options(message.clone(), tracked, &READ)
        .map_err(|error| refuse(&track.path().to_string(), &error))
}

/// Reads a JSON text as one field of a message.
///
/// # Errors
/// 400 with the path of the invalid field.
pub(super) fn read_field(field: &FieldDescriptor, text: &[u8]) -> Result<DynamicMessage, Problem> {
    // Checks first that the text is one value: `1,"other":2` would become two fields below.
    serde_json::from_slice::<IgnoredAny>(text).map_err(|error| refuse("", &error))?;
    let name = field.json_name();
    let mut whole = Vec::with_capacity(text.len() + name.len() + 5);
    for part in [b"{\"", name.as_bytes(), b"\":", text, b"}"] {
        whole.extend_from_slice(part);
    }
    read(field.parent_message(), &whole)
}

/// Writes a message as one line of JSON.
///
/// # Errors
/// If JSON cannot represent a value, such as a time after the year 9999.
pub(super) fn write(message: &DynamicMessage) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(256);
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &WRITE)?;
    Ok(text)
}

/// Builds the problem of a serde error at `path`.
fn refuse(path: &str, error: &serde_json::Error) -> Problem {
    let mut complaint = complaint(error);
    if let Some((at, _)) = complaint.char_indices().nth(MAX_COMPLAINT) {
        complaint.truncate(at);
        complaint.push('…');
    }
    match (error.classify(), path) {
        (serde_json::error::Category::Data, "." | "") => Problem::field("body", complaint),
        (serde_json::error::Category::Data, path) => Problem::field(path, complaint),
        _ => Problem::field("body", format!("is not JSON: {complaint}")),
    }
}

/// Changes serde's text so that it completes the sentence "`field` …".
fn complaint(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Line and column help to find a syntax error. For a wrong value the field's path is enough.
    let text = match (error.classify(), text.rfind(" at line ")) {
        (serde_json::error::Category::Data, Some(at)) => text.get(..at).unwrap_or(&text),
        _ => &text,
    };
    let text: Cow<'_, str> = match text {
        text if text.starts_with("is ") => text.into(),
        text if text.starts_with("invalid type: ") || text.starts_with("invalid value: ") => {
            format!("has an {text}").into()
        }
        text if error.is_data() => format!("is refused: {text}").into(),
        text => text.into(),
    };
    text.into_owned()
}

#[cfg(test)]
mod tests;
