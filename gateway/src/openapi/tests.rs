use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use svc_core::wire::auth::Methods;

use super::*;

fn table() -> Table {
    Table::decode(steward_proto::DESCRIPTORS).unwrap()
}

/// Sorts the members of every object by name, because the JSON library may keep another order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> =
                map.iter().map(|(name, value)| (name.clone(), self::sorted(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(self::sorted).collect()),
        other => other.clone(),
    }
}

#[test]
fn the_committed_document_matches_the_contract() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let document = sorted(&document(&table()));
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&file, serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
    }
    let committed: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let mut changes = Vec::new();
    differences("", &committed, &document, &mut changes);
    let changes = changes.join("\n");
    assert!(changes.is_empty(), "the HTTP API changed (UPDATE_OPENAPI=1 renews the document):\n{changes}");
}

/// Collects the JSON pointers at which two documents differ.
fn differences(at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                match (old.get(name), new.get(name)) {
                    (Some(old), Some(new)) => differences(&at, old, new, found),
                    (Some(_), None) => found.push(format!("- {at}")),
                    _ => found.push(format!("+ {at}")),
                }
            }
        }
        (old, new) if old != new => found.push(format!("~ {at}: {old} -> {new}")),
        _ => {}
    }
}

#[test]
fn every_operation_has_a_description_and_security() {
    let document = document(&table());
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(!operation["description"].as_str().unwrap().is_empty(), "{method} {path}");
            assert!(operation["security"][0]["token"].is_array(), "{method} {path}");
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(count, table().routes().len());
}

#[test]
fn every_reference_resolves() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&table());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
    }
}

#[test]
fn tokens_can_have_exactly_the_scopes_of_methods() {
    let methods = Methods::from_contract().unwrap();
    let of_methods = methods.paths().map(|path| methods.get(path).unwrap().auth.scope.clone());
    let mut scopes: BTreeSet<String> = of_methods.filter(|scope| !scope.is_empty()).collect();
    scopes.insert("*".to_owned());
    let document = document(&table());
    let create = &document["paths"]["/v1/accounts/{accountId}/tokens"]["post"];
    let body = &create["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["properties"]["scopes"]["items"]["enum"], json!(scopes));
}

#[test]
fn a_text_that_is_checked_unless_empty_may_be_empty() {
    let document = document(&table());
    let exec = &document["paths"]["/v1/sandboxes/{sandboxId}/execs"]["post"];
    let key = &exec["requestBody"]["content"]["application/json"]["schema"]["properties"]["key"];
    let pattern = json!({ "pattern": "^[A-Za-z0-9_.:/-]{1,128}$" });
    assert_eq!(key["anyOf"], json!([{ "maxLength": 0 }, pattern]));
    let list = document["paths"]["/v1/sandboxes"]["get"]["parameters"].as_array().unwrap();
    let session = list.iter().find(|parameter| parameter["name"] == "sessionId").unwrap();
    let uuid = json!({ "format": "uuid" });
    assert_eq!(session["schema"], json!({ "type": "string", "anyOf": [{ "maxLength": 0 }, uuid] }));
}

#[test]
fn fields_in_the_path_are_not_in_the_body() {
    let document = document(&table());
    let run = &document["paths"]["/v1/sessions/{sessionId}/turns:run"]["post"];
    let body = &run["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["input"]);
    assert!(run["responses"]["200"]["content"]["text/event-stream"]["x-steward-event"]["id"].is_string());
    let events = &document["paths"]["/v1/turns/{turnId}/events"]["get"];
    let names: Vec<_> =
        events["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["turnId", "lastEventId", "Last-Event-ID", "x-request-timeout"]);
}
