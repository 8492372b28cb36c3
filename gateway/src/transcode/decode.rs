//! Makes the request message from the body, the path, the query and `Last-Event-ID`, in this order.
//!
//! Every field has one source: if the path fills a field, the same field in the query or the body is an
//! error. Only `Last-Event-ID` may repeat a value that the query or the body gives. An unknown query
//! parameter is an error too.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, Value};

use super::{json, text};
use crate::{
    problem::Problem,
    table::{BodyRule, FieldPath, Route},
};

/// The parts of an HTTP request, as sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    /// Percent-encoded values of the path's variables, in order.
    pub(super) values: &'a [&'a str],
    /// The query of the URI, still percent-encoded.
    pub(super) query: Option<&'a str>,
    pub(super) last_event_id: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// Makes the request message of `route`.
///
/// # Errors
/// 400 with the name of the invalid field.
pub(super) fn decode(route: &Route, input: Input<'_>) -> Result<DynamicMessage, Problem> {
    let mut message = body(route, input.body)?;
    for (path, raw) in route.variables.iter().zip(input.values) {
        if get(&message, path).is_some() {
            return Err(Problem::field(path.json_name(), "is given by the path and must not be in the body"));
        }
        let value =
            text::percent_decode(raw).map_err(|complaint| Problem::field(path.json_name(), complaint))?;
        text::set(&mut message, path, &value)?;
    }
    query(route, &mut message, input.query.unwrap_or_default())?;
    if let (Some(path), Some(id)) = (&route.resume, input.last_event_id) {
        resume(&mut message, path, id)?;
    }
    Ok(message)
}

fn body(route: &Route, body: &[u8]) -> Result<DynamicMessage, Problem> {
    let message = route.rpc.input();
    if body.is_empty() {
        // An empty body sets no field, and is allowed for every method: the service refuses the request if a
        // required field is not set.
        return Ok(DynamicMessage::new(message));
    }
    match &route.body {
        BodyRule::None => Err(Problem::field("body", "must be empty: this method takes none")),
        BodyRule::Whole => json::read(&message, body),
        BodyRule::Field(field) => json::read_field(field, body),
    }
}

fn query(route: &Route, message: &mut DynamicMessage, query: &str) -> Result<(), Problem> {
    let mut given = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // HTML forms encode a space as "+".
        let (name, value) = (name.replace('+', " "), value.replace('+', " "));
        let name = text::percent_decode(&name).map_err(|complaint| Problem::field("query", complaint))?;
        let value =
            text::percent_decode(&value).map_err(|complaint| Problem::field(name.as_ref(), complaint))?;
        let path = parameter(route, &name)?;
        if !given.insert(path.json_name()) && !path.leaf().is_list() {
            return Err(Problem::field(path.json_name(), "is given twice"));
        }
        text::set(message, &path, &value)?;
    }
    Ok(())
}

/// Finds the field that a query parameter fills.
fn parameter(route: &Route, name: &str) -> Result<FieldPath, Problem> {
    let path = FieldPath::find(&route.rpc.input(), name)
        .filter(|path| text::is_text(path.leaf()))
        .ok_or_else(|| Problem::field(name, "is not a query parameter of this method"))?;
    if route.variables.iter().any(|variable| variable.overlaps(path.fields())) {
        return Err(Problem::field(path.json_name(), "is given by the path and must not be in the query"));
    }
    let belongs_in_body = match &route.body {
        BodyRule::None => false,
        BodyRule::Whole => true,
        BodyRule::Field(field) => path.overlaps(std::slice::from_ref(field)),
    };
    match belongs_in_body {
        true => Err(Problem::field(path.json_name(), "belongs in the body, not in the query")),
        false => Ok(path),
    }
}

fn resume(message: &mut DynamicMessage, path: &FieldPath, id: &str) -> Result<(), Problem> {
    match get(message, path).as_ref().and_then(Value::as_str) {
        None => text::set(message, path, id),
        Some(given) if given == id => Ok(()),
        Some(_) => Err(Problem::field(path.json_name(), "differs from the header Last-Event-ID")),
    }
}

/// Returns the value at `path`, if it is set.
pub(super) fn get(message: &DynamicMessage, path: &FieldPath) -> Option<Value> {
    let (first, rest) = path.fields().split_first()?;
    let mut value = message.has_field(first).then(|| message.get_field(first).into_owned())?;
    for field in rest {
        let within = value.as_message()?;
        value = within.has_field(field).then(|| within.get_field(field).into_owned())?;
    }
    Some(value)
}

#[cfg(test)]
mod tests;
