//! Refuses JSON bodies with errors that the JSON reader accepts, or reports without the field's path: a field
//! that occurs twice (also once by its proto name and once by its JSON name), an unknown field, an integer
//! that serde reads as a floating point number and that exceeds 2^53, and text after the value. The JSON
//! reader checks the types.

use std::{borrow::Cow, collections::HashSet, fmt};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Track;

use super::refuse;
use crate::{problem::Problem, table::field_named};

/// 2^53, the limit up to which a floating point number represents every integer exactly.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Checks a whole JSON text against the shape of `message`.
pub(super) fn check(message: &MessageDescriptor, text: &[u8]) -> Result<(), Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    Shape::message(message)
        .deserialize(tracked)
        .map_err(|error| refuse(&track.path().to_string(), &error))?;
    json.end().map_err(|error| refuse("", &error))
}

/// The expected form of a value.
#[derive(Clone)]
enum Shape {
    /// An object with the fields of a message.
    Message(MessageDescriptor),
    /// An object with any names and with values of one form.
    Map(Box<Shape>),
    Integer,
    /// Any value. Its objects must not repeat a name.
    Any,
    /// No value is accepted, because the name before it is wrong; the text says why.
    Refused(&'static str),
}

impl Shape {
    fn message(message: &MessageDescriptor) -> Self {
        // Well-known types have their own JSON forms.
        match message.full_name().strip_prefix("google.protobuf.") {
            None => Self::Message(message.clone()),
            Some("Int32Value" | "UInt32Value" | "Int64Value" | "UInt64Value") => Self::Integer,
            Some(_) => Self::Any,
        }
    }

    fn field(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                Self::Map(Box::new(Self::field(&entry.map_entry_value_field())))
            }
            Kind::Message(message) => Self::message(&message),
            Kind::Double | Kind::Float | Kind::Bool | Kind::String | Kind::Bytes | Kind::Enum(_) => Self::Any,
            _ => Self::Integer,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            // The name is refused while the value is read, so that the path includes the name.
            Self::Refused(reason) => Err(D::Error::custom(reason)),
            shape => deserializer.deserialize_any(shape),
        }
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut numbers = HashSet::new();
        let mut names: HashSet<String> = HashSet::new();
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let shape = match &self {
                Self::Message(message) => match field_named(message, &name) {
                    None => Self::Refused("is not known"),
                    Some(field) if !numbers.insert(field.number()) => Self::Refused("is there twice"),
                    Some(field) => Self::field(&field),
                },
                _ if !names.insert(name.clone().into_owned()) => Self::Refused("is there twice"),
                Self::Map(values) => Self::clone(values),
                Self::Integer | Self::Any | Self::Refused(_) => Self::Any,
            };
            map.next_value_seed(shape)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        match self {
            Self::Integer if number.abs() > MAX_EXACT => Err(E::custom("is out of range")),
            _ => Ok(()),
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
