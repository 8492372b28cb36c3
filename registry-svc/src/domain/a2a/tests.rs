use super::*;
use crate::domain::relay_state::State;

fn text_03(text: &str) -> Value {
    json!({ "kind": "text", "text": text })
}

fn request(method: &str, params: Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string().into_bytes()
}

fn send_03(message: Value) -> Result<Envelope, RpcError> {
    parse(Version::V03, &request("message/send", json!({ "message": message })), "fresh")
}

fn message_of(envelope: &Envelope) -> &Value {
    let Call::Send { params, .. } = &envelope.call else { panic!("{envelope:?}") };
    &params["message"]
}

#[test]
fn a_version_is_named_by_its_header() {
    for (header, want) in [
        ("", Some(Version::V03)),
        (" 0.3 ", Some(Version::V03)),
        ("0.3.0", Some(Version::V03)),
        ("0.2.6", Some(Version::V03)),
        ("1.0", Some(Version::V10)),
        ("1.0.1", Some(Version::V10)),
        ("0", None),
        ("1", None),
        ("1.1", None),
        ("9.9.9", None),
        ("x", None),
    ] {
        let asked = Version::asked(header);
        assert_eq!(asked.as_ref().ok(), want.as_ref(), "{header:?}");
        if want.is_none() {
            assert_eq!(asked.unwrap_err().code.number(), -32009);
        }
    }
}

#[test]
fn an_agents_version_is_in_its_card() {
    for (card, want) in [
        (None, Version::V03),
        (Some(json!({})), Version::V03),
        (Some(json!({"protocolVersion": "0.3.0"})), Version::V03),
        (Some(json!({"protocolVersion": "1.0"})), Version::V10),
        (
            Some(json!({"supportedInterfaces": [{"protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]})),
            Version::V10,
        ),
        (
            Some(json!({"supportedInterfaces": [{"protocolBinding": "GRPC", "protocolVersion": "1.0"}]})),
            Version::V03,
        ),
        (Some(json!({"supportedInterfaces": 7, "protocolVersion": 1})), Version::V03),
    ] {
        assert_eq!(Version::of_card(card.as_ref(), "https://a/v1"), want, "{card:?}");
    }
    let both = json!({
        "protocolVersion": "0.3.0",
        "url": "https://a/v03",
        "supportedInterfaces": [
            {"url": "https://a/v1", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        ],
    });
    for (url, want) in
        [("https://a/v03", Version::V03), ("https://a/v1", Version::V10), ("https://a/other", Version::V10)]
    {
        assert_eq!(Version::of_card(Some(&both), url), want, "{url}");
    }
}

/// Shapes that real clients send, oldest version first.
#[test]
fn every_valid_shape_becomes_parts_with_an_id() {
    let unicode = "Grüße 👋 \u{202e}";
    for (name, message) in [
        ("v0.2 string content", json!({"role": "user", "messageId": "m", "content": "hi"})),
        ("v0.2 string content, no id", json!({"role": "user", "content": "hi"})),
        ("v0.2 list content", json!({"role": "user", "content": [{"type": "text", "text": "hi"}]})),
        ("both content and parts", json!({"role": "user", "content": "old", "parts": [text_03("hi")]})),
        ("v0.3 text", json!({"role": "user", "messageId": "m", "parts": [text_03("hi")]})),
        ("v0.3 several", json!({"role": "user", "parts": [text_03("hi"), text_03("ho")]})),
        ("v0.3 file", json!({"role": "user", "parts": [{"kind": "file", "file": {"uri": "https://x/y"}}]})),
        ("v0.3 data", json!({"role": "user", "parts": [{"kind": "data", "data": {"a": 1}}]})),
        ("v0.3 context", json!({"role": "user", "contextId": "c", "parts": [text_03("hi")]})),
        ("unicode", json!({"role": "user", "parts": [text_03(unicode)]})),
        ("long", json!({"role": "user", "parts": [text_03(&"x".repeat(10_000))]})),
        ("no role", json!({"parts": [text_03("hi")]})),
        ("empty id", json!({"messageId": "", "parts": [text_03("hi")]})),
    ] {
        let envelope = send_03(message).unwrap_or_else(|error| panic!("{name}: {error}"));
        let message = message_of(&envelope);
        assert!(!message["parts"].as_array().unwrap().is_empty(), "{name}");
        assert!(!message["messageId"].as_str().unwrap().is_empty(), "{name}");
        assert!(message.get("content").is_none(), "{name}");
        assert_eq!((&message["kind"], &message["role"]), (&json!("message"), &json!("user")), "{name}");
        assert_eq!(message["parts"][0].get("type"), None, "{name}");
        assert_eq!(envelope.id, json!(7), "{name}");
    }
}

#[test]
fn an_envelope_without_a_version_keeps_its_id() {
    let body =
        json!({"id": "abc", "method": "message/send", "params": {"message": {"parts": [text_03("x")]}}});
    let envelope = parse(Version::V03, body.to_string().as_bytes(), "fresh").unwrap();
    assert_eq!(envelope.id, json!("abc"));
    let Call::Send { ids, .. } = envelope.call else { panic!() };
    assert_eq!(ids, MessageIds { message: "fresh".to_owned(), context: None });
}

#[test]
fn a_bad_request_gets_a_json_rpc_error_with_its_id() {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (body, code) in [
        ("", -32700),
        ("  ", -32700),
        ("{\"jsonrpc\":", -32700),
        ("hello", -32700),
        (deep.as_str(), -32700),
        ("null", -32600),
        ("[]", -32600),
        ("[{\"jsonrpc\":\"2.0\",\"method\":\"message/send\"}]", -32600),
        ("7", -32600),
        ("{\"id\":{},\"method\":\"message/send\"}", -32600),
        ("{\"id\":[1],\"method\":\"message/send\"}", -32600),
    ] {
        let error = parse(Version::V03, body.as_bytes(), "f").unwrap_err();
        assert_eq!((error.code.number(), &error.id), (code, &Value::Null), "{body}");
    }
    for (body, code) in [
        (json!({"id": 1, "jsonrpc": "1.0", "method": "message/send"}), -32600),
        (json!({"id": 1}), -32600),
        (json!({"id": 1, "method": 7}), -32600),
        (json!({"id": 1, "method": "nope"}), -32601),
        (json!({"id": 1, "method": "SendMessage"}), -32601),
        (json!({"id": 1, "method": "message/stream"}), -32004),
        (json!({"id": 1, "method": "message/send", "params": []}), -32602),
        (json!({"id": 1, "method": "message/send"}), -32602),
        (json!({"id": 1, "method": "message/send", "params": {"message": "hi"}}), -32602),
        (json!({"id": 1, "method": "tasks/get", "params": {}}), -32602),
        (json!({"id": 1, "method": "tasks/get", "params": {"id": 7}}), -32602),
    ] {
        let error = parse(Version::V03, body.to_string().as_bytes(), "f").unwrap_err();
        assert_eq!((error.code.number(), &error.id), (code, &json!(1)), "{body}");
    }
}

#[test]
fn a_message_that_cannot_be_repaired_is_refused() {
    for message in [
        json!({"role": "user"}),
        json!({"content": 7}),
        json!({"content": true}),
        json!({"content": null}),
        json!({"content": []}),
        json!({"parts": []}),
        json!({"parts": "hi"}),
        json!({"parts": ["hi"]}),
        json!({"parts": [{"kind": "text"}]}),
        json!({"parts": [{"kind": "text", "text": 7}]}),
        json!({"parts": [{"kind": "video", "video": {}}]}),
        json!({"parts": [{"kind": "file", "file": "x"}]}),
        json!({"role": "system", "parts": [text_03("x")]}),
        json!({"role": 7, "parts": [text_03("x")]}),
        json!({"messageId": 7, "parts": [text_03("x")]}),
        json!({"messageId": "x".repeat(300), "parts": [text_03("x")]}),
        json!({"messageId": "a\u{0}b", "parts": [text_03("x")]}),
        json!({"contextId": {}, "parts": [text_03("x")]}),
    ] {
        let error = send_03(message.clone()).unwrap_err();
        assert_eq!((error.code.number(), &error.id), (-32602, &json!(7)), "{message}");
    }
    let mixed = json!({"role": "ROLE_USER", "parts": [{"text": "a", "url": "b"}]});
    let error = parse(Version::V10, &request("SendMessage", json!({ "message": mixed })), "f").unwrap_err();
    assert_eq!(error.code.number(), -32602);
}

/// Returns the same message in both versions.
fn both() -> (Value, Value) {
    let old = json!({
        "kind": "message", "role": "user", "messageId": "m", "contextId": "c", "metadata": {"x": 1},
        "parts": [
            {"kind": "text", "text": "hi", "metadata": {"y": 2}},
            {"kind": "file", "file": {"bytes": "AAA=", "mimeType": "image/png", "name": "a.png"}},
            {"kind": "file", "file": {"uri": "https://x/y"}},
            {"kind": "data", "data": {"a": [1, 2]}},
        ],
    });
    let new = json!({
        "role": "ROLE_USER", "messageId": "m", "contextId": "c", "metadata": {"x": 1},
        "parts": [
            {"text": "hi", "metadata": {"y": 2}},
            {"raw": "AAA=", "mediaType": "image/png", "filename": "a.png"},
            {"url": "https://x/y"},
            {"data": {"a": [1, 2]}},
        ],
    });
    (old, new)
}

#[test]
fn a_message_translates_both_ways() {
    let (old, new) = both();
    let old_params = json!({"message": old, "configuration": {"blocking": true, "historyLength": 3}});
    let configuration = json!({"returnImmediately": false, "historyLength": 3});
    let new_params = json!({"message": new, "configuration": configuration, "tenant": "t"});
    let envelope = parse(Version::V03, &request("message/send", old_params.clone()), "f").unwrap();
    let mut there = new_params.clone();
    there.as_object_mut().unwrap().remove("tenant");
    assert_eq!(params_for(&envelope.call, Version::V03, Version::V10), Ok(("SendMessage", there)));
    let same = params_for(&envelope.call, Version::V03, Version::V03);
    assert_eq!(same, Ok(("message/send", old_params.clone())));

    let envelope = parse(Version::V10, &request("SendMessage", new_params), "f").unwrap();
    assert_eq!(params_for(&envelope.call, Version::V10, Version::V03), Ok(("message/send", old_params)));

    let push =
        json!({"message": both().0, "configuration": {"pushNotificationConfig": {"url": "https://x"}}});
    let envelope = parse(Version::V03, &request("message/send", push), "f").unwrap();
    assert_eq!(
        params_for(&envelope.call, Version::V03, Version::V10).unwrap_err().code,
        Code::PushNotSupported
    );
    assert!(params_for(&envelope.call, Version::V03, Version::V03).is_ok());
}

#[test]
fn a_result_is_read_in_the_callers_version() {
    let (old, new) = both();
    let artifact = |parts: &Value| json!({"artifactId": "a", "parts": parts});
    let old_task = json!({
        "kind": "task", "id": "t", "contextId": "c",
        "status": {"state": "input-required", "message": old, "timestamp": "2026-01-01T00:00:00Z"},
        "artifacts": [artifact(&old["parts"])], "history": [old],
    });
    let new_task = json!({
        "id": "t", "contextId": "c",
        "status": {"state": "TASK_STATE_INPUT_REQUIRED", "message": new, "timestamp": "2026-01-01T00:00:00Z"},
        "artifacts": [artifact(&new["parts"])], "history": [new],
    });
    let sent = send_03(json!({"parts": [text_03("x")]})).unwrap().call;
    let get = Call::GetTask { task: "t".to_owned(), params: json!({"id": "t"}) };
    let (old_wrapped, new_wrapped) = (old_task.clone(), json!({ "task": new_task }));
    let (v03, v10) = (Version::V03, Version::V10);
    for (call, result, from, to, want) in [
        (&sent, &old_wrapped, v03, v10, Some(&new_wrapped)),
        (&sent, &new_wrapped, v10, v03, Some(&old_wrapped)),
        (&sent, &old_wrapped, v03, v03, Some(&old_wrapped)),
        (&sent, &new_wrapped, v10, v10, Some(&new_wrapped)),
        (&sent, &old, v03, v10, Some(&json!({ "message": new }))),
        (&sent, &json!({ "message": new }), v10, v03, Some(&old)),
        (&get, &old_task, v03, v10, Some(&new_task)),
        (&get, &new_task, v10, v03, Some(&old_task)),
        (&sent, &json!({}), v03, v10, None),
        (&sent, &json!({"task": {}, "message": {}}), v10, v03, None),
        (&sent, &old_task, v10, v03, None),
        (&get, &json!({"id": "t"}), v03, v10, None),
    ] {
        assert_eq!(result_for(call, result, from, to).as_ref(), want, "{result} from {from:?} to {to:?}");
    }
}

#[test]
fn an_agents_answer_must_be_json_rpc() {
    assert!(matches!(Outcome::parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Ok(Outcome::Result(_))));
    assert!(matches!(Outcome::parse(br#"{"error":{"code":-32001,"message":"x"}}"#), Ok(Outcome::Error(_))));
    assert!(matches!(Outcome::parse(br#"{"result":{},"error":null}"#), Ok(Outcome::Result(_))));
    for bad in ["", "ok", "{}", "[]", r#"{"result":7}"#, r#"{"result":null}"#, r#"{"error":"x"}"#] {
        assert_eq!(Outcome::parse(bad.as_bytes()).unwrap_err().code, Code::InvalidAgentResponse, "{bad}");
    }
    for outcome in [Outcome::Result(json!({"a": 1})), Outcome::Error(json!({"code": 1}))] {
        assert_eq!(Outcome::from_stored(outcome.to_stored()), Some(outcome));
    }
}

#[test]
fn a_stored_message_is_a_task_in_the_callers_version() {
    let ids = MessageIds { message: "m".to_owned(), context: None };
    let get = |version| Envelope {
        id: json!("r"),
        version,
        call: Call::GetTask { task: "id".to_owned(), params: json!({}) },
    };
    let task_of = |version, state, answer: Option<(&Outcome, Version)>| {
        StoredMessage { id: "id", ids: &ids, state, code: "", answer }.task_of(&get(version))
    };
    let state = |version, state, answer: Option<(&Outcome, Version)>| {
        task_of(version, state, answer)["result"]["status"]["state"].clone()
    };
    assert_eq!(state(Version::V03, State::Queued, None), json!("submitted"));
    assert_eq!(state(Version::V10, State::Dispatched, None), json!("TASK_STATE_WORKING"));
    assert_eq!(state(Version::V10, State::Expired, None), json!("TASK_STATE_FAILED"));
    assert_eq!(state(Version::V03, State::Dropped, None), json!("canceled"));
    let message = Outcome::Result(both().0);
    assert_eq!(
        state(Version::V10, State::Delivered, Some((&message, Version::V03))),
        json!("TASK_STATE_COMPLETED")
    );
    let answer = task_of(Version::V10, State::Delivered, Some((&message, Version::V03)));
    assert_eq!(answer["result"]["status"]["message"], both().1);
    let own = json!({"kind": "task", "id": "own-task", "status": {"state": "working"}});
    let own = Outcome::Result(own);
    assert_eq!(state(Version::V03, State::Delivered, Some((&own, Version::V03))), json!("working"));
    let error = Outcome::Error(json!({"code": -32000}));
    let answer = task_of(Version::V03, State::Delivered, Some((&error, Version::V03)));
    assert_eq!(answer["result"]["metadata"]["steward"]["error"]["code"], json!(-32000));

    let sent = Envelope { call: Call::Send { params: json!({}), ids: ids.clone() }, ..get(Version::V10) };
    let queued = StoredMessage { id: "id", ids: &ids, state: State::Queued, code: "", answer: None };
    let answer = queued.queued_task(&sent);
    assert_eq!(answer["result"]["task"]["id"], json!("id"));
    assert_eq!(answer["result"]["task"]["contextId"], json!("m"));
    assert_eq!(answer["id"], json!("r"));
}
