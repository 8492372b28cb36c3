//! From the parts of an HTTP request to one request message: body, then path, then query, then `Last-Event-ID`.
//!
//! Every field has one source. A query parameter (or a field of the body) that names what the path gives is an
//! error, not a silent override; so is a parameter nobody knows.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, Value};

use super::{json, text};
use crate::{
    problem::Problem,
    table::{BodyRule, FieldPath, Route},
};

/// What a request carries, still as sent.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Percent-encoded values of the path's variables, in order.
    pub values: &'a [&'a str],
    /// The URI's query.
    pub query: Option<&'a str>,
    /// The `Last-Event-ID` header.
    pub last_event_id: Option<&'a str>,
    /// The whole body.
    pub body: &'a [u8],
}

/// Makes the request message of `route`.
///
/// # Errors
/// 400, naming the field.
pub fn decode(route: &Route, input: Input<'_>) -> Result<DynamicMessage, Problem> {
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
    match &route.body {
        BodyRule::None if body.is_empty() => Ok(DynamicMessage::new(message)),
        BodyRule::None => Err(Problem::field("body", "must be empty: this method takes none")),
        // A method whose fields are all optional can be called without a body.
        BodyRule::Whole | BodyRule::Field(_) if body.is_empty() => Ok(DynamicMessage::new(message)),
        BodyRule::Whole => json::read(&message, body),
        BodyRule::Field(field) => json::read_field(field, body),
    }
}

fn query(route: &Route, message: &mut DynamicMessage, query: &str) -> Result<(), Problem> {
    let mut given = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Forms write a space as "+".
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

/// The field that a query parameter may fill.
fn parameter(route: &Route, name: &str) -> Result<FieldPath, Problem> {
    let path = FieldPath::find(&route.rpc.input(), name)
        .filter(|path| text::is_text(path.leaf()))
        .ok_or_else(|| Problem::field(name, "is not a query parameter of this method"))?;
    if route.variables.iter().any(|variable| variable.overlaps(path.fields())) {
        return Err(Problem::field(path.json_name(), "is given by the path and must not be in the query"));
    }
    let in_body = match &route.body {
        BodyRule::None => false,
        BodyRule::Whole => true,
        BodyRule::Field(field) => path.overlaps(std::slice::from_ref(field)),
    };
    match in_body {
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

/// The value at `path`, if it is set.
#[must_use]
pub fn get(message: &DynamicMessage, path: &FieldPath) -> Option<Value> {
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
