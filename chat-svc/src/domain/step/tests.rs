use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: ClockLimits = ClockLimits {
    bytes: Duration::from_secs(10),
    liveness: Duration::from_secs(20),
    progress: Duration::from_secs(30),
};

fn step_at(now: Instant) -> Step {
    Step::new(3, String::new(), Clocks::start(LIMITS, now + 100 * SECOND, now))
}

fn text(text: &str) -> ModelEvent {
    ModelEvent::TextDelta(text.into())
}

fn reasoning(text: &str) -> ModelEvent {
    ModelEvent::ReasoningDelta(text.into())
}

fn call(id: &str) -> ModelEvent {
    ModelEvent::ToolCall(ToolCall { id: id.into(), name: "shell".into(), arguments: "{}".into() })
}

const DONE: ModelEvent = ModelEvent::Finish(FinishReason::EndTurn);

/// Passes the events to a new step, all at the same time. Returns the events that the step shows, and its
/// record or error.
fn run(events: impl IntoIterator<Item = ModelEvent>) -> (Vec<TurnEvent>, Result<StepRecord, StepError>) {
    let now = Instant::now();
    let mut step = step_at(now);
    let mut shown = Vec::new();
    for event in events {
        match step.handle(event, now) {
            Ok(event) => shown.extend(event),
            Err(error) => return (shown, Err(error)),
        }
    }
    (shown, step.end())
}

#[test]
fn text_and_reasoning_are_shown_as_deltas_and_kept_as_parts() {
    let usage = Usage { input_tokens: Some(3), ..Usage::default() };
    let (shown, end) =
        run([reasoning("hm"), reasoning("m"), text("Hel"), text("lo"), DONE, ModelEvent::Usage(usage)]);
    assert_eq!(shown.len(), 4);
    assert_eq!(shown[3], TurnEvent::TextDelta { step: 3, text: "lo".into() });
    let record = end.unwrap();
    assert_eq!(
        record.message.parts,
        [Part::Reasoning { text: "hmm".into(), signature: None }, Part::Text { text: "Hello".into() }]
    );
    assert_eq!((record.usage, record.finish), (Some(usage), FinishReason::EndTurn));
}

#[test]
fn a_tool_call_is_recorded_but_not_shown() {
    let (shown, end) =
        run([text("Let me see."), ModelEvent::ToolCallDelta { bytes: 4 }, call("a"), call("b"), DONE]);
    assert_eq!(shown.len(), 1);
    let record = end.unwrap();
    assert_eq!(record.message.tool_calls().count(), 2);
    assert_eq!(record.finish, FinishReason::ToolUse, "the calls decide, not the upstream's reason");
}

#[test]
fn a_tool_use_finish_without_calls_is_an_end_of_turn() {
    let (_, end) = run([text("done"), ModelEvent::Finish(FinishReason::ToolUse)]);
    assert_eq!(end.unwrap().finish, FinishReason::EndTurn);
}

#[test]
fn every_bad_end_has_its_error() {
    let malformed = StepError::Malformed("something follows the end of the message");
    let twice = StepError::Malformed("a tool call's id is missing or used twice");
    let table: [(&str, Vec<ModelEvent>, StepError); 7] = [
        ("nothing", vec![], StepError::Cut),
        ("no finish", vec![text("half an ans")], StepError::Cut),
        ("empty", vec![ModelEvent::Pulse(Pulse::Event), DONE], StepError::Empty),
        ("text after the end", vec![text("a"), DONE, text("b")], malformed),
        ("two ends", vec![text("a"), DONE, DONE], malformed),
        ("one id twice", vec![call("a"), call("a"), DONE], twice),
        ("no id", vec![call(""), DONE], twice),
    ];
    for (name, events, error) in table {
        assert_eq!(run(events).1, Err(error), "{name}");
    }
    for spoke in [text("a"), reasoning("a"), call("a")] {
        assert!(run([spoke.clone(), DONE]).1.is_ok(), "{spoke:?} alone is a legal answer");
    }
}

#[test]
fn an_endless_answer_is_stopped() {
    let chunk = "x".repeat(1024 * 1024);
    let (_, end) = run((0..9).map(|_| text(&chunk)));
    assert_eq!(end.unwrap_err().class(), Some(FailureClass::Malformed));
    let (_, end) = run((0..200).map(|n| call(&n.to_string())));
    assert_eq!(end.unwrap_err().class(), Some(FailureClass::Malformed));
}

#[test]
fn a_spliced_step_continues_the_kept_text() {
    let now = Instant::now();
    let mut step = Step::new(1, "The answer ".into(), Clocks::start(LIMITS, now + SECOND, now));
    step.handle(text("is 42"), now).unwrap();
    step.handle(DONE, now).unwrap();
    assert_eq!(step.end().unwrap().message.text(), "The answer is 42");

    let mut silent = Step::new(1, "The answer ".into(), Clocks::start(LIMITS, now + SECOND, now));
    silent.handle(DONE, now).unwrap();
    assert_eq!(silent.end(), Err(StepError::Empty), "kept text is not an answer of this attempt");
}

#[test]
fn each_clock_restarts_with_its_own_kind_of_event() {
    let start = Instant::now();
    // Each row: an event at second 9 with nothing after it, the clock that runs out, and the second at which
    // it does.
    let table = [
        (ModelEvent::Pulse(Pulse::Bytes), Clock::Bytes, 19),
        (ModelEvent::Pulse(Pulse::Event), Clock::Bytes, 19),
        (text("a"), Clock::Bytes, 19),
    ];
    for (event, clock, at) in table {
        let mut step = step_at(start);
        step.handle(event, start + 9 * SECOND).unwrap();
        assert_eq!(step.poll_timeout(), start + at * SECOND);
        assert_eq!(step.fired(start + at * SECOND - Duration::from_millis(1)), None);
        assert_eq!(step.fired(start + at * SECOND).unwrap().clock, clock);
    }
    // Each row: an event that comes every 9 seconds without end, the clock that runs out (never the bytes
    // clock), and the second at which it does.
    let endless = [
        (ModelEvent::Pulse(Pulse::Bytes), Clock::Liveness, 27),
        (ModelEvent::Pulse(Pulse::Event), Clock::Progress, 36),
        (ModelEvent::Usage(Usage::default()), Clock::Progress, 36),
        (ModelEvent::ToolCallDelta { bytes: 1 }, Clock::Deadline, 108),
        (text("a"), Clock::Deadline, 108),
    ];
    for (event, clock, at) in endless {
        let mut step = step_at(start);
        let fired = (1..).map(|n| n * 9).find_map(|second| {
            let error = step.handle(event.clone(), start + second * SECOND).err()?;
            Some((second, error))
        });
        let (second, error) = fired.unwrap();
        let StepError::TimedOut(firing) = error else { panic!("{error:?}") };
        assert_eq!((firing.clock, second), (clock, at), "{event:?}");
        assert_eq!(
            error.class().is_none(),
            clock == Clock::Deadline,
            "the turn's deadline is not a failure of the model"
        );
    }
}

#[test]
fn a_firing_names_its_clock_and_the_last_progress() {
    let start = Instant::now();
    let mut step = step_at(start);
    step.handle(text("a"), start + 2 * SECOND).unwrap();
    step.handle(ModelEvent::Pulse(Pulse::Bytes), start + 11 * SECOND).unwrap();
    let firing = step.fired(start + 21 * SECOND).unwrap();
    assert_eq!(firing.to_string(), "bytes clock ran out after 10s, last progress 19s ago");
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    prop_oneof![
        4 => "[a-z ]{1,8}".prop_map(ModelEvent::TextDelta),
        2 => "[a-z ]{1,8}".prop_map(ModelEvent::ReasoningDelta),
        1 => (1..100_usize).prop_map(|bytes| ModelEvent::ToolCallDelta { bytes }),
        1 => any::<u16>().prop_map(|id| call(&id.to_string())),
        1 => any::<Option<u64>>()
            .prop_map(|n| ModelEvent::Usage(Usage { output_tokens: n, ..Usage::default() })),
        1 => Just(ModelEvent::Pulse(Pulse::Bytes)),
    ]
}

proptest! {
    #[test]
    fn the_record_is_what_was_shown(events in proptest::collection::vec(any_event(), 0..40)) {
        let (shown, end) = run(events.into_iter().chain([DONE]));
        if let Ok(record) = end {
            let text = |event: &TurnEvent| match event {
                TurnEvent::TextDelta { text, .. } => Some(text.clone()),
                _ => None,
            };
            let text: String = shown.iter().filter_map(text).collect();
            prop_assert_eq!(record.message.text(), text);
            let neighbours = record.message.parts.windows(2).any(|pair| matches!(
                pair,
                [Part::Text { .. }, Part::Text { .. }] | [Part::Reasoning { .. }, Part::Reasoning { .. }]
            ));
            prop_assert!(!neighbours, "adjacent deltas are one part");
            prop_assert_eq!(record.finish == FinishReason::ToolUse, record.message.tool_calls().count() > 0);
        }
    }

    #[test]
    fn no_clock_fires_before_the_timeout_it_announced(
        gaps in proptest::collection::vec((0_u64..12_000, any_event()), 1..40),
    ) {
        let start = Instant::now();
        let mut step = step_at(start);
        let mut now = start;
        for (gap, event) in gaps {
            let announced = step.poll_timeout();
            now += Duration::from_millis(gap);
            prop_assert_eq!(step.fired(now).is_some(), announced <= now);
            if step.handle(event, now).is_err() { break; }
        }
    }
}
