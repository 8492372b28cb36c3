//! JSON schemas of the contract's messages and enums, as the JSON mapping writes and reads them.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{comments::Comments, rules};
use crate::table::{self, FieldPath, Table};

/// Schemas made so far, and names of schemas that must still be made.
pub(super) struct Schemas<'c> {
    comments: &'c Comments,
    /// Messages that a request may hold; all their fields are optional.
    in_requests: BTreeSet<String>,
    done: BTreeMap<String, Value>,
}

impl<'c> Schemas<'c> {
    pub(super) fn new(table: &Table, comments: &'c Comments) -> Self {
        let mut in_requests = BTreeSet::new();
        for route in table.routes() {
            reach(&route.rpc.input(), &mut in_requests);
        }
        Self { comments, in_requests, done: BTreeMap::new() }
    }

    pub(super) fn into_components(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    /// Describes a field by its comment.
    pub(super) fn describe(&self, field: &FieldDescriptor) -> String {
        self.comments.of_field(field)
    }

    /// Returns the schema of a message: a reference to its component, or the form of a well-known type.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message.full_name()) {
            return known;
        }
        let name = component(message.full_name());
        if !self.done.contains_key(&name) {
            // Reserves the name first, because a message may contain itself.
            self.done.insert(name.clone(), Value::Null);
            let schema = self.message_without(message, &[]);
            self.done.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// Returns the schema of a message's fields, without the fields that the path fills.
    pub(super) fn message_without(&mut self, message: &MessageDescriptor, taken: &[FieldPath]) -> Value {
        let of_request = self.in_requests.contains(message.full_name());
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields() {
            if taken.iter().any(|path| path.fields() == std::slice::from_ref(&field)) {
                continue;
            }
            let mut schema = if of_request { self.input(&field) } else { self.value(&field) };
            let description = self.comments.of_field(&field);
            if !description.is_empty() {
                schema["description"] = description.into();
            }
            properties.insert(field.json_name().to_owned(), schema);
            // A response has every field without presence, because the gateway writes default values too; it
            // lacks a message, an `optional` field or a field of a oneof that is not set. A request must have
            // the fields with the rule `required`.
            let always =
                if of_request { table::rules(&field).required() } else { !field.supports_presence() };
            if always {
                required.push(field.json_name().to_owned());
            }
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        let description = self.comments.of_message(message);
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if of_request {
            schema["additionalProperties"] = false.into();
            for oneof in message.oneofs().filter(table::is_required) {
                let one = |field: FieldDescriptor| json!({ "required": [field.json_name()] });
                schema["oneOf"] = oneof.fields().map(one).collect();
            }
        }
        schema
    }

    /// Returns the schema of a field in a request, with its rules and without the enum value that means "not
    /// set".
    pub(super) fn input(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = self.value(field);
        if let Kind::Enum(kind) = field.kind() {
            let single = self.values(&kind, |value| value.number() != 0);
            schema = if field.is_list() { json!({ "type": "array", "items": single }) } else { single };
        }
        rules::print(&table::rules(field), field, &mut schema);
        schema
    }

    /// Returns the schema of a field, without its comment.
    pub(super) fn value(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let values = self.value(&entry.map_entry_value_field());
                json!({ "type": "object", "additionalProperties": values })
            }
            kind if field.is_list() => json!({ "type": "array", "items": self.single(&kind) }),
            kind => self.single(&kind),
        }
    }

    fn single(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "format": "byte", "contentEncoding": "base64" }),
            Kind::Message(message) => self.message(message),
            Kind::Enum(kind) => self.enumeration(kind),
        }
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Value {
        if kind.full_name() == "google.protobuf.NullValue" {
            return json!({ "type": "null" });
        }
        let name = component(kind.full_name());
        if !self.done.contains_key(&name) {
            self.done.insert(name.clone(), self.values(kind, |_| true));
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// Describes the names of an enum's values, each with its meaning.
    fn values(&self, kind: &EnumDescriptor, shown: impl Fn(&EnumValueDescriptor) -> bool) -> Value {
        let mut description = self.comments.of_enum(kind);
        let mut names = Vec::new();
        for value in kind.values().filter(shown) {
            description.push_str(&format!("\n- `{}`: {}", value.name(), self.comments.of_value(&value)));
            names.push(value.name().to_owned());
        }
        json!({ "type": "string", "enum": names, "description": description })
    }
}

/// Drops the prefix of the package, because every package is Steward's own: "chat.v1.Turn" is enough.
fn component(full_name: &str) -> String {
    full_name.strip_prefix("steward.").unwrap_or(full_name).to_owned()
}

fn reach(message: &MessageDescriptor, reached: &mut BTreeSet<String>) {
    if reached.insert(message.full_name().to_owned()) {
        for inner in message.fields().filter_map(|field| field.kind().as_message().cloned()) {
            reach(&inner, reached);
        }
    }
}

/// Returns the schema of a type with its own JSON form.
fn well_known(name: &str) -> Option<Value> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" => {
            json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$", "examples": ["1.5s"] })
        }
        "FieldMask" | "StringValue" => json!({ "type": "string" }),
        "Struct" | "Any" => json!({ "type": "object" }),
        "Empty" => json!({ "type": "object", "additionalProperties": false }),
        "ListValue" => json!({ "type": "array" }),
        "BytesValue" => json!({ "type": "string", "contentEncoding": "base64" }),
        "BoolValue" => json!({ "type": "boolean" }),
        "Int32Value" | "UInt32Value" => json!({ "type": "integer" }),
        "Int64Value" | "UInt64Value" => json!({ "type": "string" }),
        "FloatValue" | "DoubleValue" => json!({ "type": "number" }),
        "Value" => json!({}),
        _ => return None,
    })
}
