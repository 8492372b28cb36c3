use serde_json::{Value, json};

use super::*;
use crate::table::testing::probe;

fn everything() -> MessageDescriptor {
    probe().pool().get_message_by_name("steward.sandbox.probe.Everything").unwrap()
}

/// Reads a text and writes it again without default values.
fn round(text: &str) -> Result<Value, Vec<String>> {
    let message = read(&everything(), text.as_bytes())
        .map_err(|problem| problem.errors.iter().map(|error| error.field.clone()).collect::<Vec<_>>())?;
    Ok(serde_json::to_value(&message).unwrap())
}

#[test]
fn values_keep_their_meaning() {
    for (text, expected) in [
        ("{}", json!({})),
        (" \n{ } ", json!({})),
        (r#"{"int64Value": "9007199254740993"}"#, json!({"int64Value": "9007199254740993"})),
        (r#"{"int64_value": 7}"#, json!({"int64Value": "7"})),
        (r#"{"int32Value": "7"}"#, json!({"int32Value": 7})),
        (r#"{"int32Value": 7.0}"#, json!({"int32Value": 7})),
        (r#"{"uint64Value": 18446744073709551615}"#, json!({"uint64Value": "18446744073709551615"})),
        (r#"{"doubleValue": "Infinity"}"#, json!({"doubleValue": "Infinity"})),
        (r#"{"doubleValue": 1.5, "floatValue": 0.5}"#, json!({"doubleValue": 1.5, "floatValue": 0.5})),
        (r#"{"boolValue": true}"#, json!({"boolValue": true})),
        (r#"{"text": "a\u00e9\ud83d\ude00"}"#, json!({"text": "aé😀"})),
        (r#"{"text": null, "nested": null}"#, json!({})),
        (r#"{"data": "-_8="}"#, json!({"data": "+/8="})),
        (r#"{"data": "AAEC"}"#, json!({"data": "AAEC"})),
        (r#"{"color": "COLOR_RED"}"#, json!({"color": "COLOR_RED"})),
        (r#"{"color": 1}"#, json!({"color": "COLOR_RED"})),
        (r#"{"color": 9}"#, json!({"color": 9})),
        (r#"{"nested": {}}"#, json!({"nested": {}})),
        (r#"{"nested": {"inner": {"text": "a"}}}"#, json!({"nested": {"inner": {"text": "a"}}})),
        (r#"{"texts": ["a", "b"], "numbers": [1, "2"]}"#, json!({"texts": ["a", "b"], "numbers": [1, 2]})),
        (r#"{"labels": {"a": "b", "c": ""}}"#, json!({"labels": {"a": "b", "c": ""}})),
        (r#"{"byNumber": {"7": {"text": "a"}}}"#, json!({"byNumber": {"7": {"text": "a"}}})),
        (r#"{"at": "2026-11-21T05:03:11.25Z"}"#, json!({"at": "2026-11-21T05:03:11.250Z"})),
        (r#"{"at": "2026-11-21T05:03:11+01:00"}"#, json!({"at": "2026-11-21T04:03:11Z"})),
        (r#"{"within": "1.5s"}"#, json!({"within": "1.500s"})),
        (r#"{"free": {"a": [1, null, {"b": "c"}]}}"#, json!({"free": {"a": [1.0, null, {"b": "c"}]}})),
        (r#"{"maybe": ""}"#, json!({"maybe": ""})),
        (r#"{"perhaps": ""}"#, json!({"perhaps": ""})),
        (r#"{"left": ""}"#, json!({"left": ""})),
        (r#"{"mask": "text,nested.text"}"#, json!({"mask": "text,nested.text"})),
    ] {
        assert_eq!(round(text), Ok(expected), "{text}");
    }
}

#[test]
fn json_outside_the_contract_is_refused_with_its_path() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let deep = format!(r#"{{"free": {{"a": {deep}}}}}"#);
    for (text, field) in [
        // Texts that are not JSON, or hold more than one value.
        ("", "body"),
        ("{", "body"),
        ("{} {}", "body"),
        ("{}x", "body"),
        ("{'text': 1}", "body"),
        (r#"{"text": "a",}"#, "body"),
        (r#"{"text": "\ud800"}"#, "body"),
        (r#"{"text": NaN}"#, "body"),
        ("\u{feff}{}", "body"),
        // Values of another kind.
        ("[]", "body"),
        ("7", "body"),
        ("null", "body"),
        (r#""text""#, "body"),
        // Wrong names of fields.
        (r#"{"unknown": 1}"#, "unknown"),
        (r#"{"nested": {"unknown": 1}}"#, "nested.unknown"),
        (r#"{"list": [{}, {"unknown": 1}]}"#, "list[1].unknown"),
        (r#"{"byNumber": {"7": {"unknown": 1}}}"#, "byNumber.7.unknown"),
        (r#"{"text": "a", "text": "b"}"#, "text"),
        (r#"{"int32Value": 1, "int32_value": 2}"#, "int32_value"),
        (r#"{"labels": {"a": "b", "a": "c"}}"#, "labels.a"),
        (r#"{"free": {"a": {"b": 1, "b": 2}}}"#, "free.a.b"),
        (r#"{"nested": {"text": "a", "inner": {"text": "a", "text": "a"}}}"#, "nested.inner.text"),
        // Wrong types of values.
        (r#"{"text": 7}"#, "text"),
        (r#"{"int32Value": "seven"}"#, "int32Value"),
        (r#"{"int32Value": 1.5}"#, "int32Value"),
        (r#"{"int32Value": 2147483648}"#, "int32Value"),
        (r#"{"uint32Value": -1}"#, "uint32Value"),
        (r#"{"uint64Value": 18446744073709551616}"#, "uint64Value"),
        (r#"{"boolValue": "true"}"#, "boolValue"),
        (r#"{"boolValue": 1}"#, "boolValue"),
        (r#"{"data": "%"}"#, "data"),
        (r#"{"color": "RED"}"#, "color"),
        (r#"{"color": true}"#, "color"),
        (r#"{"nested": []}"#, "nested"),
        (r#"{"nested": {"number": "x"}}"#, "nested.number"),
        (r#"{"texts": "a"}"#, "texts"),
        (r#"{"texts": ["a", 7]}"#, "texts[1]"),
        (r#"{"list": [{"number": {}}]}"#, "list[0].number"),
        (r#"{"labels": {"a": 7}}"#, "labels.a"),
        (r#"{"labels": []}"#, "labels"),
        (r#"{"at": "yesterday"}"#, "at"),
        (r#"{"at": "2026-13-01T00:00:00Z"}"#, "at"),
        (r#"{"at": 7}"#, "at"),
        (r#"{"within": "1 minute"}"#, "within"),
        (r#"{"free": []}"#, "free"),
        (&deep, "body"),
    ] {
        assert_eq!(round(text), Err(vec![field.to_owned()]), "{text}");
    }
    assert!(round(r#"{"left": "a", "right": "b"}"#).is_err());
    assert!(round(r#"{"byNumber": {"seven": {}}}"#).is_err());
    assert!(read(&everything(), b"{\"text\": \"\xff\"}").is_err());
}

#[test]
fn a_problem_quotes_at_most_a_part_of_a_long_value() {
    let text = format!(r#"{{"int32Value": "{}"}}"#, "x".repeat(10_000));
    let problem = read(&everything(), text.as_bytes()).unwrap_err();
    assert!(problem.detail.len() < 300, "{}", problem.detail.len());
    let problem = read(&everything(), br#"{"text": 7}"#).unwrap_err();
    assert_eq!(problem.detail, "text has an invalid type: integer `7`, expected a string");
}

#[test]
fn one_field_as_the_body_stays_one_field() {
    let nested = everything().get_field_by_name("nested").unwrap();
    let texts = everything().get_field_by_name("texts").unwrap();
    let read =
        |field, text: &str| read_field(field, text.as_bytes()).map(|m| serde_json::to_value(&m).unwrap());
    assert_eq!(read(&nested, r#"{"text": "a"}"#).unwrap(), json!({"nested": {"text": "a"}}));
    assert_eq!(read(&texts, r#"["a"]"#).unwrap(), json!({"texts": ["a"]}));
    for text in [r#"{}, "text": "injected""#, r#"{}} {"#, ""] {
        assert!(read(&nested, text).is_err(), "{text}");
    }
    assert_eq!(read(&nested, r#"{"number": true}"#).unwrap_err().errors[0].field, "nested.number");
}

#[test]
fn answers_hold_every_scalar_list_and_map() {
    let text = write(&DynamicMessage::new(everything())).unwrap();
    let value: Value = serde_json::from_slice(&text).unwrap();
    let expected = json!({
        "doubleValue": 0.0, "floatValue": 0.0, "int32Value": 0, "int64Value": "0", "uint32Value": 0,
        "uint64Value": "0", "boolValue": false, "text": "", "data": "", "color": "COLOR_UNSPECIFIED",
        "texts": [], "numbers": [], "labels": {}, "byNumber": {}, "list": [],
    });
    assert_eq!(value, expected);
    assert!(!text.contains(&b'\n'));
}
