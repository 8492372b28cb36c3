//! Writes the bytes of one frame of a stream of server-sent events.

use std::borrow::Cow;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, Value};

use crate::{
    problem::Problem,
    table::{FieldPath, SseFields},
    transcode::{decode::get, json},
};

/// Name of the event that ends a failed stream.
const PROBLEM_EVENT: &str = "problem";

/// Returns the frame of one message. An error is a defect of the service.
pub(super) fn event(fields: &SseFields, message: &DynamicMessage) -> Result<Bytes, Cow<'static, str>> {
    let word = |path: &Option<FieldPath>| -> Result<String, Cow<'static, str>> {
        let value = path.as_ref().and_then(|path| get(message, path));
        let text = value.as_ref().and_then(Value::as_str).unwrap_or_default();
        match text.contains(['\n', '\r', '\0']) {
            true => Err("id or event has more than one line".into()),
            false => Ok(text.to_owned()),
        }
    };
    let (id, event) = (word(&fields.id)?, word(&fields.event)?);
    let data = match &fields.data {
        None => Bytes::from(json::write(message).map_err(|error| error.to_string())?),
        Some(path) => match get(message, path) {
            Some(Value::Bytes(data)) => data,
            Some(Value::String(data)) => Bytes::from(data),
            _ => Bytes::new(),
        },
    };
    let data = std::str::from_utf8(&data).map_err(|_| "data is not UTF-8")?;
    Ok(frame(&id, &event, data))
}

/// Returns the last frame of a failed stream. It has no id, so that a client resumes after its last event.
pub(super) fn problem(problem: &Problem, request_id: &str) -> Bytes {
    frame("", PROBLEM_EVENT, &problem.document(request_id))
}

/// Returns a comment, which clients ignore; it shows proxies that the connection is in use.
pub(super) fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}

fn frame(id: &str, event: &str, data: &str) -> Bytes {
    let mut frame = String::with_capacity(id.len() + event.len() + data.len() + 24);
    let mut line = |name: &str, value: &str| {
        for part in [name, ": ", value, "\n"] {
            frame.push_str(part);
        }
    };
    if !id.is_empty() {
        line("id", id);
    }
    if !event.is_empty() {
        line("event", event);
    }
    // A line of data must not contain a line end, of which there are three kinds. A client joins the lines
    // with "\n".
    let mut rest = data;
    while let Some(end) = rest.find(['\n', '\r']) {
        let (this, after) = rest.split_at(end);
        line("data", this);
        rest = after.strip_prefix("\r\n").or_else(|| after.get(1..)).unwrap_or_default();
    }
    line("data", rest);
    frame.push('\n');
    Bytes::from(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_lines_in_order() {
        assert_eq!(frame("7", "text.delta", r#"{"a":1}"#), "id: 7\nevent: text.delta\ndata: {\"a\":1}\n\n");
        assert_eq!(frame("", "", "x"), "data: x\n\n");
        assert_eq!(frame("", "", ""), "data: \n\n");
    }

    #[test]
    fn data_is_split_at_every_kind_of_line_end() {
        assert_eq!(frame("", "", "a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    }

    #[test]
    fn a_problem_is_one_line_without_an_id() {
        let bytes = problem(&Problem::internal(), "r-1");
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with("event: problem\ndata: {") && text.ends_with("}\n\n"), "{text}");
        assert_eq!(text.matches('\n').count(), 3);
    }
}
