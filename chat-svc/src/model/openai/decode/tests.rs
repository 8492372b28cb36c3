use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::model_client::FailureClass;

/// Decodes a stream with these payloads. Returns its events without the pulses.
fn decode(payloads: impl IntoIterator<Item = Value>) -> Result<Vec<ModelEvent>, ModelError> {
    let mut decoder = Decoder::default();
    for payload in payloads {
        decoder.frame(Frame::Event { name: "message".into(), data: payload.to_string() })?;
    }
    decoder.end().map(|events| events.into_iter().filter(|e| !matches!(e, ModelEvent::Pulse(_))).collect())
}

fn delta(delta: Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta }] })
}

fn finish(reason: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
}

fn call_delta(index: Option<u32>, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    let function = json!({ "name": name, "arguments": arguments });
    delta(json!({ "tool_calls": [{ "index": index, "id": id, "function": function }] }))
}

fn calls(events: &[ModelEvent]) -> Vec<(&str, &str, &str)> {
    let call = |event| match event {
        &ModelEvent::ToolCall(ToolCall { ref id, ref name, ref arguments }) => {
            Some((&**id, &**name, &**arguments))
        }
        _ => None,
    };
    events.iter().filter_map(call).collect()
}

#[test]
fn an_ordinary_answer_is_decoded() {
    let usage = json!({ "choices": [], "usage": {
        "prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14,
        "prompt_tokens_details": { "cached_tokens": 8 },
        "completion_tokens_details": { "reasoning_tokens": 2 },
    } });
    let chunks = [
        delta(json!({ "role": "assistant", "content": "", "refusal": null })),
        delta(json!({ "reasoning_content": "hm" })),
        delta(json!({ "content": "Hel" })),
        delta(json!({ "content": "lo" })),
        finish("stop"),
        usage,
    ];
    let expected = Usage {
        input_tokens: Some(10),
        output_tokens: Some(4),
        cache_read_tokens: Some(8),
        cache_write_tokens: None,
        reasoning_tokens: Some(2),
    };
    assert_eq!(
        decode(chunks).unwrap(),
        [
            ModelEvent::ReasoningDelta("hm".into()),
            ModelEvent::TextDelta("Hel".into()),
            ModelEvent::TextDelta("lo".into()),
            ModelEvent::Usage(expected),
            ModelEvent::Finish(FinishReason::EndTurn),
        ]
    );
}

#[test]
fn interleaved_arguments_are_collected_by_index() {
    let chunks = [
        call_delta(Some(0), Some("a"), Some("shell"), ""),
        call_delta(Some(1), Some("b"), Some("read_file"), "{\"pa"),
        call_delta(Some(0), None, None, "{\"command\":"),
        call_delta(Some(1), None, None, "th\":\"x\"}"),
        call_delta(Some(0), None, None, "\"ls\"}"),
        finish("tool_calls"),
    ];
    let events = decode(chunks).unwrap();
    assert_eq!(
        calls(&events),
        [("a", "shell", r#"{"command":"ls"}"#), ("b", "read_file", r#"{"path":"x"}"#)]
    );
    assert_eq!(events.last(), Some(&ModelEvent::Finish(FinishReason::ToolUse)));
}

#[test]
fn missing_and_repeated_ids_and_indexes_are_accepted() {
    let no_index = [
        call_delta(None, Some("a"), Some("shell"), "{\"x\":"),
        call_delta(None, None, None, "1}"),
        call_delta(None, Some("b"), Some("shell"), "{}"),
        finish("stop"),
    ];
    let events = decode(no_index).unwrap();
    assert_eq!(calls(&events), [("a", "shell", r#"{"x":1}"#), ("b", "shell", "{}")]);
    assert_eq!(
        events.last(),
        Some(&ModelEvent::Finish(FinishReason::ToolUse)),
        "calls decide, not the reason"
    );

    let same_index = [
        call_delta(Some(0), Some("a"), Some("shell"), "{}"),
        call_delta(Some(0), Some("b"), Some("shell"), "{}"),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&decode(same_index).unwrap()).len(), 2);

    let repeated = [
        call_delta(Some(0), Some("a"), Some("shell"), "{"),
        call_delta(Some(0), Some("a"), Some("shell"), "}"),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&decode(repeated).unwrap()), [("a", "shell", "{}")]);

    let no_id = [
        call_delta(Some(0), None, Some("f"), ""),
        call_delta(Some(1), None, Some("g"), " "),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&decode(no_id).unwrap()), [("call_1", "f", "{}"), ("call_2", "g", "{}")]);
}

#[test]
fn a_call_cut_by_the_token_limit_is_dropped() {
    let cut =
        |text: Value| [text, call_delta(Some(0), Some("a"), Some("shell"), "{\"comm"), finish("length")];
    let events = decode(cut(delta(json!({ "content": "I will" })))).unwrap();
    assert!(calls(&events).is_empty());
    assert_eq!(events.last(), Some(&ModelEvent::Finish(FinishReason::MaxTokens)));
    let nothing_else = decode(cut(delta(json!({})))).unwrap_err();
    assert!(matches!(nothing_else, ModelError::Empty { finish: FinishReason::MaxTokens }));
}

#[test]
fn every_bad_answer_has_its_failure_class() {
    use FailureClass::*;
    let text = || delta(json!({ "content": "a" }));
    let broken = |arguments| vec![call_delta(Some(0), Some("a"), Some("f"), arguments), finish("tool_calls")];
    let table = [
        ("nothing", vec![], Cut),
        ("no finish", vec![text()], Cut),
        ("finish alone", vec![finish("stop")], EmptyTurn),
        ("empty texts", vec![delta(json!({ "content": "", "reasoning": "" })), finish("stop")], EmptyTurn),
        ("text after the finish", vec![text(), finish("stop"), text()], Malformed),
        ("a finish that says nothing", vec![text(), finish(""), text()], Cut),
        ("broken arguments", broken("{"), Malformed),
        ("arguments that are no object", broken("[1]"), Malformed),
        ("no name", vec![call_delta(Some(0), Some("a"), None, "{}"), finish("tool_calls")], Malformed),
        ("an array", vec![json!([1])], Malformed),
        ("choices of a wrong type", vec![json!({ "choices": "x" })], Malformed),
        ("an error", vec![text(), json!({ "error": { "message": "m", "code": "server_error" } })], InBand),
        ("an error after the finish", vec![text(), finish("stop"), json!({ "error": "late" })], InBand),
    ];
    for (name, chunks, class) in table {
        assert_eq!(decode(chunks).unwrap_err().class(), class, "{name}");
    }
}

#[test]
fn an_empty_finish_reason_is_ignored() {
    let chunk = |text: &str| {
        let delta = json!({ "content": text });
        json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": "" }] })
    };
    let events = decode([chunk("Hel"), chunk("lo"), finish("stop")]).unwrap();
    let text: String = events
        .iter()
        .filter_map(|event| if let ModelEvent::TextDelta(text) = event { Some(text.as_str()) } else { None })
        .collect();
    assert_eq!(text, "Hello");
    assert_eq!(events.last(), Some(&ModelEvent::Finish(FinishReason::EndTurn)));
}

#[test]
fn finish_reasons_are_mapped() {
    use FinishReason::*;
    let table = [
        ("stop", EndTurn),
        ("end_turn", EndTurn),
        ("length", MaxTokens),
        ("max_tokens", MaxTokens),
        ("content_filter", Refusal),
        ("cosmic_ray", Unknown),
    ];
    for (reason, expected) in table {
        let events = decode([delta(json!({ "content": "a" })), finish(reason), finish(reason)]).unwrap();
        assert_eq!(events.last(), Some(&ModelEvent::Finish(expected)), "{reason}");
    }
    let refused = decode([delta(json!({ "refusal": "I will not" })), finish("stop")]).unwrap();
    assert_eq!(refused[0], ModelEvent::TextDelta("I will not".into()));
    assert_eq!(refused.last(), Some(&ModelEvent::Finish(Refusal)));
}

#[test]
fn other_choices_comments_and_named_errors_are_recognized() {
    let mut decoder = Decoder::default();
    decoder.frame(Frame::Comment).unwrap();
    assert_eq!(decoder.next_event(), Some(ModelEvent::Pulse(Pulse::Bytes)));
    let other = json!({ "choices": [{ "index": 1, "delta": { "content": "not ours" } }] });
    decoder.frame(Frame::Event { name: "message".into(), data: other.to_string() }).unwrap();
    assert_eq!(decoder.next_event(), Some(ModelEvent::Pulse(Pulse::Event)));
    let error = decoder.frame(Frame::Event { name: "error".into(), data: "it broke".into() }).unwrap_err();
    assert_eq!(error.class(), FailureClass::InBand);
    decoder.frame(Frame::Event { name: "message".into(), data: " [DONE] ".into() }).unwrap();
    assert!(decoder.is_done() && !decoder.is_finished());
}

proptest! {
    #[test]
    fn arguments_are_decoded_unchanged(
        command in "\\PC{0,30}",
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let arguments = json!({ "command": command }).to_string();
        let chars: Vec<char> = arguments.chars().collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(chars.len())).collect();
        cuts.extend([0, chars.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect::<String>());
        let first = call_delta(Some(0), Some("a"), Some("shell"), "");
        let chunks = std::iter::once(first)
            .chain(pieces.map(|piece| call_delta(Some(0), None, None, &piece)))
            .chain([finish("tool_calls")]);
        let events = decode(chunks).unwrap();
        prop_assert_eq!(calls(&events), [("a", "shell", arguments.as_str())]);
    }

    #[test]
    fn no_payload_makes_the_decoder_panic(data in "\\PC*") {
        let mut decoder = Decoder::default();
        let _outcome = decoder.frame(Frame::Event { name: "message".into(), data });
        let _end = decoder.end();
    }
}
