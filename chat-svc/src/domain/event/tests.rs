use super::*;
use crate::domain::turn::{CancelCause, FailCause};

fn text(step: i32, text: &str) -> TurnEvent {
    TurnEvent::TextDelta { step, text: text.to_owned() }
}

fn every_event() -> Vec<TurnEvent> {
    let message_id = MessageId::new();
    vec![
        TurnEvent::TurnStarted { attempt: 1 },
        TurnEvent::StepStarted { step: 1, attempt: 1, model: "demo".into() },
        text(1, "hi"),
        TurnEvent::ReasoningDelta { step: 1, text: "hm".into() },
        TurnEvent::ToolCall {
            step: 1,
            call: 1,
            call_id: "c".into(),
            name: "shell".into(),
            arguments: serde_json::json!({"command": "ls"}),
        },
        TurnEvent::ToolResult {
            step: 1,
            call: 1,
            call_id: "c".into(),
            name: "shell".into(),
            content: "ok".into(),
            is_error: false,
            in_doubt: false,
        },
        TurnEvent::Usage {
            step: 1,
            attempt: 1,
            model: "demo".into(),
            usage: Usage { input_tokens: Some(3), ..Usage::default() },
            unknown: false,
        },
        TurnEvent::reset(3, 2, ResetCause::Takeover),
        TurnEvent::ending(Ending::Completed, Some(message_id), "end_turn", 5).unwrap(),
        TurnEvent::ending(Ending::Failed(FailCause::Poisoned), None, "", 5).unwrap(),
        TurnEvent::ending(Ending::Canceled(CancelCause::User), Some(message_id), "", 5).unwrap(),
    ]
}

#[test]
fn every_payload_starts_with_its_kind_and_parses_back() {
    for event in every_event() {
        let payload = String::from_utf8(event.payload()).unwrap();
        assert!(payload.starts_with(&format!("{{\"type\":\"{}\"", event.kind())), "{payload}");
        assert_eq!(serde_json::from_str::<TurnEvent>(&payload).unwrap(), event);
    }
}

#[test]
fn only_the_three_endings_are_final() {
    let finals: Vec<_> =
        every_event().iter().map(TurnEvent::kind).filter(|kind| TurnEvent::is_final(kind)).collect();
    assert_eq!(finals, ["turn.completed", "turn.failed", "turn.canceled"]);
}

#[test]
fn a_completed_turn_needs_a_message() {
    assert_eq!(TurnEvent::ending(Ending::Completed, None, "end_turn", 1), None);
}

#[test]
fn only_adjacent_deltas_of_one_step_merge() {
    let mut event = text(1, "a");
    assert_eq!(event.merge(text(1, "b")), Ok(()));
    assert_eq!(event, text(1, "ab"));
    assert!(event.merge(text(2, "c")).is_err());
    assert!(event.merge(TurnEvent::ReasoningDelta { step: 1, text: "c".into() }).is_err());
    assert!(event.merge(text(1, &"x".repeat(MAX_DELTA_BYTES))).is_err());
    assert!(TurnEvent::TurnStarted { attempt: 1 }.merge(TurnEvent::TurnStarted { attempt: 2 }).is_err());
}

fn stored(events: &[TurnEvent]) -> Vec<StoredEvent> {
    (1..)
        .zip(events)
        .map(|(seq, event)| StoredEvent { seq, kind: event.kind().into(), payload: event.payload().into() })
        .collect()
}

#[test]
fn an_open_step_holds_the_text_since_its_start_or_reset() {
    let start = |step, attempt| TurnEvent::StepStarted { step, attempt, model: "demo".into() };
    let mut events =
        vec![TurnEvent::TurnStarted { attempt: 1 }, start(1, 1), text(1, "one"), text(1, " two")];
    let open = OpenStep::read(&stored(&events));
    assert_eq!((open.step, open.attempt, open.from_seq), (1, 1, 2));
    assert_eq!(open.text, "one two");
    assert!(open.is_visible());

    events.push(TurnEvent::reset(2, 2, ResetCause::Takeover));
    let open = OpenStep::read(&stored(&events));
    assert!(!open.is_visible() && open.voided);

    events.extend([start(1, 2), text(1, "again")]);
    let open = OpenStep::read(&stored(&events));
    assert_eq!((open.attempt, open.from_seq, open.text.as_str()), (2, 6, "again"));
    assert!(!OpenStep::read(&[]).is_visible());
}

#[test]
fn an_attempt_is_settled_by_its_own_usage_only() {
    let start = |attempt| TurnEvent::StepStarted { step: 1, attempt, model: "demo".into() };
    let usage = |attempt| TurnEvent::Usage {
        step: 1,
        attempt,
        model: "demo".into(),
        usage: Usage::default(),
        unknown: false,
    };
    let settled = |events: &[TurnEvent]| OpenStep::read(&stored(events)).settled;
    assert!(!settled(&[start(1)]));
    assert!(settled(&[start(1), usage(1)]));
    assert!(!settled(&[start(1), usage(1), start(2)]));
    let splice = TurnEvent::Splice {
        step: 1,
        attempt: 2,
        from_model: "demo".into(),
        to_model: "other".into(),
        kept_bytes: 3,
        cause: "UPSTREAM_CUT".into(),
    };
    assert!(!settled(&[start(1), text(1, "abc"), usage(1), splice.clone()]));
    assert!(!settled(&[start(1), text(1, "abc"), splice, usage(1)]));
}

#[test]
fn a_cursor_has_one_spelling_and_one_turn() {
    let turn_id = TurnId::new();
    let cursor = Cursor { turn_id, seq: 12 };
    assert_eq!(Cursor::parse("last_event_id", &cursor.to_string(), turn_id).unwrap(), cursor);
    assert_eq!(Cursor::parse("last_event_id", "", turn_id).unwrap().seq, 0);
    let foreign = Cursor { turn_id: TurnId::new(), seq: 1 }.to_string();
    for bad in [
        "1".to_owned(),
        format!("{turn_id}"),
        format!("{turn_id}:"),
        format!("{turn_id}:-1"),
        format!("{turn_id}:+1"),
        format!("{turn_id}:01"),
        format!("{turn_id}:1:2"),
        format!("{turn_id}:99999999999999999999"),
        foreign,
    ] {
        assert_eq!(
            Cursor::parse("last_event_id", &bad, turn_id).unwrap_err().field,
            "last_event_id",
            "{bad}"
        );
    }
}
