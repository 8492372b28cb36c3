use serde_json::{Value, json};

use super::*;
use crate::{
    domain::tools,
    model::model_client::{FailureClass, FinishReason, Message, Part, Role, ToolCall, Usage},
};

const FAST: Demo = Demo::new(Duration::ZERO);

fn request(messages: Vec<Message>) -> ModelRequest {
    ModelRequest { model: "demo".into(), messages, tools: tools::specs(), ..ModelRequest::default() }
}

fn asked(input: &str) -> ModelRequest {
    request(vec![Message::user(input)])
}

fn result(call: &ToolCall, content: &str) -> Message {
    let part = Part::ToolResult {
        call_id: call.id.clone(),
        name: call.name.clone(),
        content: content.into(),
        is_error: false,
    };
    Message { role: Role::Tool, parts: vec![part] }
}

#[derive(Debug, Default)]
struct Said {
    text: String,
    reasoning: String,
    deltas: usize,
    calls: Vec<ToolCall>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    error: Option<ModelError>,
}

async fn hear(request: ModelRequest) -> Said {
    let mut said = Said::default();
    let mut stream = match FAST.stream(request).await {
        Ok(stream) => stream,
        Err(error) => return Said { error: Some(error), ..said },
    };
    while let Some(event) = stream.next().await {
        match event {
            Ok(ModelEvent::TextDelta(text)) => {
                said.deltas += 1;
                said.text.push_str(&text);
            }
            Ok(ModelEvent::ReasoningDelta(text)) => said.reasoning.push_str(&text),
            Ok(ModelEvent::ToolCall(call)) => said.calls.push(call),
            Ok(ModelEvent::Finish(reason)) => said.finish = Some(reason),
            Ok(ModelEvent::Usage(usage)) => said.usage = Some(usage),
            Ok(ModelEvent::ToolCallDelta { .. } | ModelEvent::Pulse(_)) => {}
            Err(error) => said.error = Some(error),
        }
    }
    said
}

fn calls(said: &Said) -> Vec<(&str, Value)> {
    said.calls.iter().map(|c| (c.name.as_str(), serde_json::from_str(&c.arguments).unwrap())).collect()
}

#[tokio::test]
async fn a_command_is_run_and_its_output_repeated() {
    let said = hear(asked("run uname -a")).await;
    assert_eq!(calls(&said), [("shell", json!({"command": "uname -a"}))]);
    assert_eq!(said.finish, Some(FinishReason::ToolUse));

    let call = said.calls[0].clone();
    let assistant = Message { role: Role::Assistant, parts: vec![Part::ToolCall(call.clone())] };
    let history =
        vec![Message::user("run uname -a"), assistant, result(&call, "exit code: 0\nstdout:\nLinux\n")];
    let answer = hear(request(history)).await;
    assert_eq!(answer.text, "shell returned:\n\nexit code: 0\nstdout:\nLinux");
    assert!(answer.calls.is_empty());
}

#[tokio::test]
async fn every_tool_can_be_called() {
    let table = [
        ("read a.txt", "read_file", json!({"path": "a.txt"})),
        ("Write a.txt hello you", "write_file", json!({"path": "a.txt", "content": "hello you"})),
        ("list", "list_files", json!({})),
        ("list /tmp", "list_files", json!({"path": "/tmp"})),
        ("run if true; then echo yes; fi", "shell", json!({"command": "if true; then echo yes; fi"})),
    ];
    for (input, tool, arguments) in table {
        let said = hear(asked(input)).await;
        assert_eq!(calls(&said), [(tool, arguments)], "{input}");
        tools::BuiltIn::parse(&said.calls[0]).unwrap();
    }
}

#[tokio::test]
async fn lines_are_calls_of_one_message_and_then_separates_steps() {
    let said = hear(asked("run a\nread b")).await;
    assert_eq!(said.calls.len(), 2);
    assert_ne!(said.calls[0].id, said.calls[1].id);

    let mut history = vec![Message::user("run a then run b")];
    for command in ["a", "b"] {
        let said = hear(request(history.clone())).await;
        assert_eq!(calls(&said), [("shell", json!({ "command": command }))]);
        let call = said.calls[0].clone();
        history.push(Message { role: Role::Assistant, parts: vec![Part::ToolCall(call.clone())] });
        history.push(result(&call, command));
    }
    let answer = hear(request(history)).await;
    assert_eq!(answer.text, "shell returned:\n\na\n\nshell returned:\n\nb");
}

#[tokio::test]
async fn a_tool_that_is_not_offered_is_not_called() {
    let said = hear(ModelRequest { tools: Vec::new(), ..asked("run a") }).await;
    assert!(said.calls.is_empty() && said.text.contains("no tool named shell"), "{said:?}");
    assert_eq!(said.finish, Some(FinishReason::EndTurn));
}

#[tokio::test]
async fn it_repeats_earlier_inputs() {
    let first = hear(asked("What did I say?")).await;
    assert_eq!(first.text, "This is the first thing you say to me.");
    let history = vec![
        Message::user("remember the milk"),
        Message::assistant("I will remember: the milk"),
        Message::user("list"),
        Message::assistant("…"),
        Message::user("what did I ask before?"),
    ];
    assert_eq!(hear(request(history)).await.text, "You said before:\n1. remember the milk\n2. list");
}

#[tokio::test(start_paused = true)]
async fn it_counts_at_the_requested_pace() {
    let table = [
        ("count to 3", 0),
        ("count to 3 slowly", 2_000),
        ("count to 3 every 250ms", 500),
        ("count 3 every 2s", 4_000),
    ];
    for (input, milliseconds) in table {
        let start = tokio::time::Instant::now();
        let said = hear(asked(input)).await;
        assert_eq!((said.text.as_str(), said.deltas), ("1 2 3", 3), "{input}");
        assert_eq!(start.elapsed().as_millis(), milliseconds, "{input}");
    }
    assert!(hear(asked("count sheep")).await.text.starts_with("You said \"count sheep\""));
}

#[tokio::test]
async fn it_reasons_before_it_answers() {
    let said = hear(asked("think about rain")).await;
    assert!(said.reasoning.contains("rain") && said.text == "I have thought about rain.");
    assert_eq!(said.usage.unwrap().reasoning_tokens, Some(said.reasoning.split_whitespace().count() as u64));
    assert_eq!(hear(asked("say it's  all\nright")).await.text, "it's  all\nright");
}

#[tokio::test]
async fn it_fails_on_demand_in_every_way() {
    use FailureClass::*;
    let table = [
        ("fail", InBand, 0),
        ("fail cut after 3 words", Cut, 3),
        ("fail cut", Cut, 0),
        ("fail malformed after 1 words", Malformed, 1),
        ("fail error after 2 words", InBand, 2),
        ("fail busy", Transient, 0),
        ("fail limit", RateLimited, 0),
        ("fail reject", Rejected, 0),
        ("fail invalid", InvalidRequest, 0),
        ("fail empty", EmptyTurn, 0),
        ("fail limit after 2 words", RateLimited, 2),
    ];
    for (input, class, words) in table {
        let said = hear(asked(input)).await;
        assert_eq!(said.error.unwrap().class(), class, "{input}");
        assert_eq!((said.text.split_whitespace().count(), said.finish), (words, None), "{input}");
    }
    let stalled =
        tokio::time::timeout(Duration::from_millis(20), hear(asked("fail stall after 2 words"))).await;
    assert!(stalled.is_err(), "it stalls without end");
}

#[tokio::test]
async fn it_continues_a_prefill() {
    let mut spliced = asked("count to 5");
    spliced.messages.push(Message::assistant("1 2"));
    assert_eq!(hear(spliced).await.text, " 3 4 5");

    let mut spliced = asked("say one two three");
    spliced.messages.push(Message::assistant("one tw"));
    assert_eq!(hear(spliced).await.text, "o three");

    let mut foreign = asked("say hello");
    foreign.messages.push(Message::assistant("Once there wa"));
    assert_eq!(hear(foreign).await.text, "\n\nhello");
}

#[tokio::test]
async fn it_obeys_the_limit_on_output_tokens() {
    let said = hear(ModelRequest { max_output_tokens: Some(2), ..asked("say one two three") }).await;
    assert_eq!((said.text.as_str(), said.finish), ("one two ", Some(FinishReason::MaxTokens)));
    assert_eq!(said.usage.unwrap().output_tokens, Some(2));
    let said = hear(ModelRequest { max_output_tokens: Some(2), ..asked("count to 9") }).await;
    assert_eq!((said.text.as_str(), said.finish), ("1 2", Some(FinishReason::MaxTokens)));
}

#[tokio::test]
async fn the_same_conversation_has_the_same_answer() {
    for input in ["hello", "", "think", "run ls\nlist", "count to 4"] {
        let (one, other) = (hear(asked(input)).await, hear(asked(input)).await);
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{input}");
        assert!(one.error.is_none() && one.finish.is_some());
    }
}
