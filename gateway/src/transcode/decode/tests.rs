use std::sync::LazyLock;

use http::Method;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::table::{Table, testing::probe};

static TABLE: LazyLock<Table> = LazyLock::new(probe);

/// Decodes a request. Returns its message, or the first invalid field.
fn request(
    method: &str,
    uri: &str,
    last_event_id: Option<&str>,
    body: &str,
) -> Result<serde_json::Value, String> {
    let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    let matched = TABLE.find(&method.parse().unwrap(), path).unwrap();
    let input = Input { values: &matched.values, query, last_event_id, body: body.as_bytes() };
    match decode(matched.route, input) {
        Ok(message) => Ok(serde_json::to_value(&message).unwrap()),
        Err(problem) => {
            assert_eq!(problem.status, 400);
            Err(problem.errors.first().map(|error| error.field.clone()).unwrap())
        }
    }
}

#[test]
fn body_path_and_query_each_fill_their_fields() {
    for (method, uri, body, expected) in [
        ("POST", "/v1/probes/a", r#"{"int32Value": 1}"#, json!({"text": "a", "int32Value": 1})),
        ("POST", "/v1/probes/a", "", json!({"text": "a"})),
        ("POST", "/v1/probes/a%2Fb%20c", "{}", json!({"text": "a/b c"})),
        ("POST", "/v1/probes/a+b", "{}", json!({"text": "a+b"})),
        ("PUT", "/v1/probes/a/nested/b", "{}", json!({"text": "a", "nested": {"text": "b"}})),
        ("PATCH", "/v1/probes/a", r#"{"number": 7}"#, json!({"nested": {"text": "a", "number": 7}})),
        ("PATCH", "/v1/probes/a?text=b", "{}", json!({"nested": {"text": "a"}, "text": "b"})),
        ("POST", "/v1/probes:list?text=b", r#"["x", "y"]"#, json!({"texts": ["x", "y"], "text": "b"})),
        ("GET", "/v1/probes/a", "", json!({"text": "a"})),
        ("GET", "/v1/probes/a?", "", json!({"text": "a"})),
        ("GET", "/v1/probes?&&", "", json!({})),
        ("GET", "/v1/probes?text=a+b%2B&text", "", json!(null)),
        ("GET", "/v1/probes?text=", "", json!({})),
        ("GET", "/v1/probes?perhaps", "", json!({"perhaps": ""})),
        ("GET", "/v1/probes?int64_value=-9&int32Value=8", "", json!({"int64Value": "-9", "int32Value": 8})),
        (
            "GET",
            "/v1/probes?doubleValue=1.5&boolValue=true",
            "",
            json!({"doubleValue": 1.5, "boolValue": true}),
        ),
        ("GET", "/v1/probes?color=COLOR_RED", "", json!({"color": "COLOR_RED"})),
        ("GET", "/v1/probes?color=1", "", json!({"color": "COLOR_RED"})),
        (
            "GET",
            "/v1/probes?texts=a&texts=b&numbers=1&numbers=2",
            "",
            json!({"texts": ["a", "b"], "numbers": [1, 2]}),
        ),
        (
            "GET",
            "/v1/probes?nested.text=a&nested.inner.number=3",
            "",
            json!({"nested": {"text": "a", "inner": {"number": 3}}}),
        ),
        ("GET", "/v1/probes?data=-_8", "", json!({"data": "+/8="})),
        ("GET", "/v1/probes?data=%2B%2F8%3D", "", json!({"data": "+/8="})),
        (
            "GET",
            "/v1/probes?at=2026-11-21T05:03:11Z&within=2s",
            "",
            json!({"at": "2026-11-21T05:03:11Z", "within": "2s"}),
        ),
        ("GET", "/v1/probes?maybe=a", "", json!({"maybe": "a"})),
        ("GET", "/v1/probes?%74ext=a", "", json!({"text": "a"})),
        (
            "GET",
            "/v1/numbers/-5/true/COLOR_RED",
            "",
            json!({"int64Value": "-5", "boolValue": true, "color": "COLOR_RED"}),
        ),
    ] {
        let read = request(method, uri, None, body);
        match expected.is_null() {
            true => assert_eq!(read, Err("text".to_owned()), "{method} {uri} {body}"),
            false => assert_eq!(read, Ok(expected), "{method} {uri} {body}"),
        }
    }
}

#[test]
fn a_value_with_no_field_or_two_sources_is_refused() {
    for (method, uri, body, field) in [
        // Query parameters that are unknown, or cannot be sent as text.
        ("GET", "/v1/probes?unknown=1", "", "unknown"),
        ("GET", "/v1/probes?nested.unknown=1", "", "nested.unknown"),
        ("GET", "/v1/probes?text.inner=1", "", "text.inner"),
        ("GET", "/v1/probes?nested=1", "", "nested"),
        ("GET", "/v1/probes?list.text=1", "", "list.text"),
        ("GET", "/v1/probes?labels.a=1", "", "labels.a"),
        ("GET", "/v1/probes?labels=1", "", "labels"),
        ("GET", "/v1/probes?free=1", "", "free"),
        ("GET", "/v1/probes?=1", "", ""),
        // One field with two sources.
        ("GET", "/v1/probes/a?text=b", "", "text"),
        ("GET", "/v1/probes/a?text=a", "", "text"),
        ("POST", "/v1/probes/a?text=b", "{}", "text"),
        ("POST", "/v1/probes/a?int32Value=1", "{}", "int32Value"),
        ("POST", "/v1/probes/a?int32Value=1", "", "int32Value"),
        ("POST", "/v1/probes/a", r#"{"text": "b"}"#, "text"),
        ("PUT", "/v1/probes/a/nested/b", r#"{"nested": {"text": "c"}}"#, "nested.text"),
        ("PATCH", "/v1/probes/a", r#"{"text": "b"}"#, "nested.text"),
        ("PATCH", "/v1/probes/a?nested.number=1", "{}", "nested.number"),
        ("PATCH", "/v1/probes/a?nested.text=1", "{}", "nested.text"),
        ("POST", "/v1/probes:list?texts=a", "[]", "texts"),
        ("GET", "/v1/probes?boolValue=true&boolValue=true", "", "boolValue"),
        ("GET", "/v1/probes?bool_value=true&boolValue=true", "", "boolValue"),
        ("GET", "/v1/probes?left=a&right=b", "", "right"),
        // Values of another type.
        ("GET", "/v1/probes?int32Value=", "", "int32Value"),
        ("GET", "/v1/probes?int32Value=1.0", "", "int32Value"),
        ("GET", "/v1/probes?int32Value=2147483648", "", "int32Value"),
        ("GET", "/v1/probes?uint32Value=-1", "", "uint32Value"),
        ("GET", "/v1/probes?boolValue=yes", "", "boolValue"),
        ("GET", "/v1/probes?boolValue=", "", "boolValue"),
        ("GET", "/v1/probes?color=RED", "", "color"),
        ("GET", "/v1/probes?color=9", "", "color"),
        ("GET", "/v1/probes?data=%25", "", "data"),
        ("GET", "/v1/probes?at=now", "", "at"),
        ("GET", "/v1/probes?numbers=1&numbers=x", "", "numbers"),
        ("GET", "/v1/numbers/x/true/COLOR_RED", "", "int64Value"),
        ("GET", "/v1/numbers/5/maybe/COLOR_RED", "", "boolValue"),
        // Bytes that are not UTF-8.
        ("GET", "/v1/probes/%ff", "", "text"),
        ("GET", "/v1/probes?text=%ff", "", "text"),
        ("GET", "/v1/probes?%ff=a", "", "query"),
        // A body for a method without one, or of another type.
        ("GET", "/v1/probes", "{}", "body"),
        ("GET", "/v1/probes/a", " ", "body"),
        ("POST", "/v1/probes/a", "[]", "body"),
        ("POST", "/v1/probes/a", r#"{"unknown": 1}"#, "unknown"),
        ("PATCH", "/v1/probes/a", r#"{"unknown": 1}"#, "nested.unknown"),
        ("POST", "/v1/probes:list", "{}", "texts"),
    ] {
        assert_eq!(request(method, uri, None, body), Err(field.to_owned()), "{method} {uri} {body}");
    }
}

#[test]
fn the_last_event_id_fills_its_field() {
    let watch = |uri: &str, id| request("GET", uri, id, "");
    let both = json!({"text": "a", "after": "7"});
    assert_eq!(watch("/v1/probes/a:watch", Some("7")), Ok(both.clone()));
    assert_eq!(watch("/v1/probes/a:watch?after=7", None), Ok(both.clone()));
    assert_eq!(watch("/v1/probes/a:watch?after=7", Some("7")), Ok(both));
    assert_eq!(watch("/v1/probes/a:watch?after=8", Some("7")), Err("after".to_owned()));
    assert_eq!(watch("/v1/probes/a:watch", None), Ok(json!({"text": "a"})));
    // The gateway passes any text on; the service decides whether it is a valid cursor.
    assert_eq!(
        watch("/v1/probes/a:watch", Some("no cursor")),
        Ok(json!({"text": "a", "after": "no cursor"}))
    );
    // On a route that does not resume, the header is ignored.
    assert_eq!(request("GET", "/v1/probes/a", Some("7"), ""), Ok(json!({"text": "a"})));
}

/// Generates pieces from which valid paths and queries are likely.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,6}",
        prop::sample::select(vec![
            "/v1/probes",
            "/v1/probes/",
            "/v1/numbers/",
            ":watch",
            ":list",
            "/nested/",
            "?",
            "&",
            "=",
            "%",
            "%ff",
            "%2",
            "text",
            "nested.text",
            "nested.inner.inner.number",
            "numbers",
            "color",
            "COLOR_RED",
            "at",
            "within",
            "mask",
            "maybe",
            "data",
            "-1",
            "9e999",
            "2026-11-21T05:03:11Z",
            "left",
            "right",
            "by_number",
            "free",
            "after",
            "true",
            "7",
        ])
        .prop_map(str::to_owned),
    ]
}

/// Generates texts that are valid JSON, or nearly.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"text\"",
        "\"nested\"",
        "\"inner\"",
        "\"numbers\"",
        "\"byNumber\"",
        "\"7\"",
        "\"at\"",
        "\"free\"",
        "\"mask\"",
        "\"within\"",
        "\"1.5s\"",
        "\"2026-11-21T05:03:11.5Z\"",
        "1",
        "-1.5e300",
        "1e400",
        "null",
        "true",
        "\"\\ud800\"",
        "\"AAEC\"",
        "\"COLOR_RED\"",
        "18446744073709551616",
        "\"left\"",
        "\"perhaps\"",
    ]);
    prop_oneof![
        prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_request_makes_matching_or_decoding_panic(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]),
        pieces in prop::collection::vec(piece(), 0..8),
        id in prop::option::of("\\PC{0,8}"),
        body in json_like(),
    ) {
        let uri = pieces.concat();
        let split = uri.split_once('?');
        let (path, query) = split.map_or((uri.as_str(), None), |(path, query)| (path, Some(query)));
        if let Ok(matched) = TABLE.find(&method.parse::<Method>().unwrap(), path) {
            let input = Input { values: &matched.values, query, last_event_id: id.as_deref(), body: &body };
            if let Ok(message) = decode(matched.route, input) {
                json::write(&message).unwrap();
            }
        }
    }

    #[test]
    fn a_message_survives_writing_and_reading(body in json_like()) {
        let route = TABLE.find(&Method::POST, "/v1/probes/a").unwrap().route.clone();
        if let Ok(message) = json::read(&route.rpc.input(), &body) {
            let text = json::write(&message).unwrap();
            let again = json::read(&route.rpc.input(), &text).unwrap();
            // Compared as values, because maps have no order.
            let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(value(&json::write(&again).unwrap()), value(&text));
        }
    }

    #[test]
    fn any_text_survives_the_path_and_the_query(text in "\\PC{1,20}") {
        let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
        let encoded = encoded.to_string();
        let read = |uri: String| request("GET", &uri, None, "");
        prop_assert_eq!(read(format!("/v1/probes/{encoded}")), Ok(json!({ "text": text })));
        prop_assert_eq!(read(format!("/v1/probes?text={encoded}")), Ok(json!({ "text": text })));
    }
}
