//! Reads values that are sent as text: path variables, query parameters, `Last-Event-ID`.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};
use serde::de::value::StrDeserializer;

use crate::{problem::Problem, table::FieldPath};

/// Both alphabets of base64, with or without padding. The second alphabet needs no escaping in a URI.
const BASE64: [GeneralPurpose; 2] = {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [GeneralPurpose::new(&alphabet::STANDARD, LENIENT), GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT)]
};

/// Completes the sentence "`field` …" of a problem.
type Complaint = Cow<'static, str>;

/// Decodes one part of a URI.
pub(super) fn percent_decode(raw: &str) -> Result<Cow<'_, str>, Complaint> {
    percent_decode_str(raw).decode_utf8().map_err(|_| "is not UTF-8 once percent-decoded".into())
}

/// Sets the field at `path` from its text; appends to a list.
///
/// # Errors
/// 400 with the name of the field.
pub(super) fn set(message: &mut DynamicMessage, path: &FieldPath, text: &str) -> Result<(), Problem> {
    let value = value(path.leaf(), text).map_err(|complaint| Problem::field(path.json_name(), complaint))?;
    let mut within = message;
    let (leaf, above) = match path.fields() {
        [above @ .., leaf] => (leaf, above),
        [] => return Err(Problem::internal()),
    };
    for field in above {
        within = within.get_field_mut(field).as_message_mut().ok_or_else(Problem::internal)?;
    }
    let rivals = leaf.containing_oneof().into_iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
    if let Some(rival) = rivals.into_iter().find(|rival| rival != leaf && within.has_field(rival)) {
        return Err(Problem::field(path.json_name(), format!("excludes {}", rival.json_name())));
    }
    match within.get_field_mut(leaf) {
        Value::List(values) => values.push(value),
        slot => *slot = value,
    }
    Ok(())
}

/// Returns whether a field can be sent as text: scalars, and well-known types with a string as their JSON
/// form.
pub(crate) fn is_text(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => is_text_message(message.full_name()),
        _ => true,
    }
}

fn is_text_message(name: &str) -> bool {
    matches!(
        name,
        "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "google.protobuf.FieldMask"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.FloatValue"
            | "google.protobuf.DoubleValue"
    )
}

fn value(field: &FieldDescriptor, text: &str) -> Result<Value, Complaint> {
    fn number<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, Complaint> {
        text.parse().map_err(|_| what.into())
    }
    match field.kind() {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".into()),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            number(text, "must be a 32-bit integer").map(Value::I32)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            number(text, "must be a 64-bit integer").map(Value::I64)
        }
        Kind::Uint32 | Kind::Fixed32 => number(text, "must be a 32-bit integer from 0").map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => number(text, "must be a 64-bit integer from 0").map(Value::U64),
        Kind::Float => number(text, "must be a number").map(Value::F32),
        Kind::Double => number(text, "must be a number").map(Value::F64),
        Kind::Enum(kind) => {
            let by_number = || text.parse().ok().and_then(|number| kind.get_value(number));
            let value = kind.get_value_by_name(text).or_else(by_number);
            value.map(|value| Value::EnumNumber(value.number())).ok_or_else(|| {
                let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
                format!("must be one of {}", names.join(", ")).into()
            })
        }
        Kind::Bytes => BASE64
            .iter()
            .find_map(|base64| base64.decode(text).ok())
            .map_or_else(|| Err("must be base64".into()), |bytes| Ok(Value::Bytes(bytes.into()))),
        Kind::Message(message) if is_text_message(message.full_name()) => {
            // These types have strings as their JSON form, which the reader of JSON parses.
            DynamicMessage::deserialize(message, StrDeserializer::<serde::de::value::Error>::new(text))
                .map(Value::Message)
                .map_err(|error| format!("is refused: {error}").into())
        }
        Kind::Message(_) => Err("cannot be given as text".into()),
    }
}
