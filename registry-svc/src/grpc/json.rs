//! Converts JSON between `google.protobuf.Struct` and serde. A `Struct` holds numbers as doubles; an integer
//! that a double represents exactly stays an integer.

use prost_types::{Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value};
use svc_core::{error::Invalid, wire::grpc::structure};

/// Maximum nesting of an object.
const MAX_DEPTH: usize = 32;

/// Parses the object in `field` of a request.
pub(super) fn parse(field: &str, object: Struct) -> Result<Value, Invalid> {
    read_object(object, MAX_DEPTH)
        .ok_or_else(|| Invalid::new(field, "is nested too deeply, or holds a NUL or no JSON number"))
}

fn read_object(object: Struct, depth: usize) -> Option<Value> {
    let fields = object
        .fields
        .into_iter()
        .map(|(key, value)| Some((read_text(key)?, read(value, depth.checked_sub(1)?)?)));
    Some(Value::Object(fields.collect::<Option<Map<_, _>>>()?))
}

fn read(value: Wire, depth: usize) -> Option<Value> {
    Some(match value.kind? {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::StringValue(text) => Value::String(read_text(text)?),
        Kind::NumberValue(number) => Value::Number(read_number(number)?),
        Kind::StructValue(object) => read_object(object, depth)?,
        Kind::ListValue(list) => {
            let items = list.values.into_iter().map(|value| read(value, depth.checked_sub(1)?));
            Value::Array(items.collect::<Option<Vec<_>>>()?)
        }
    })
}

/// Refuses NUL, which Postgres cannot store in `jsonb`.
fn read_text(text: String) -> Option<String> {
    (!text.contains('\0')).then_some(text)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "an integer is used only if it converts back to the same double"
)]
fn read_number(number: f64) -> Option<Number> {
    let whole = number as i64;
    if whole as f64 == number { Some(whole.into()) } else { Number::from_f64(number) }
}

/// Converts an object; any other value becomes an empty object.
pub(super) fn write(value: Value) -> Struct {
    match value {
        Value::Object(object) => structure(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Struct::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_survives_a_round_trip() {
        let object = json!({"a": [1, 2.5, -3], "b": {"c": null, "d": true}, "e": "ä", "f": []});
        assert_eq!(parse("card", write(object.clone())).unwrap(), object);
    }

    #[test]
    fn deep_and_unstorable_objects_are_refused() {
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({ "x": deep });
        }
        assert_eq!(parse("card", write(deep)).unwrap_err().field, "card");
        let number = Wire { kind: Some(Kind::NumberValue(f64::NAN)) };
        assert!(parse("card", Struct { fields: [("x".to_owned(), number)].into() }).is_err());
        let empty = Struct { fields: [("x".to_owned(), Wire { kind: None })].into() };
        assert!(parse("card", empty).is_err());
        assert!(parse("card", write(json!({"a": ["b\0"]}))).is_err());
        assert!(parse("card", write(json!({"a\0": 1}))).is_err());
    }
}
