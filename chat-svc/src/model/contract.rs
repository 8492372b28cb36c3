//! Tests that every [`ModelClient`] passes.
//!
//! A [`Subject`] prepares an upstream so that the client's next call meets one [`Case`]. The expected events
//! are the same for all clients.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;

use super::model_client::{
    FailureClass, FinishReason, ModelClient, ModelError, ModelEvent, ModelRequest, ToolCall,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// The model says `hello there`.
    Text,
    /// It reasons, then answers.
    Reasoning,
    /// It calls `shell` with `{"command": "ls"}`.
    Call,
    /// It makes two calls in one message.
    TwoCalls,
    /// The answer reaches the limit on output tokens after some text.
    Limit,
    /// The answer has no end.
    Endless,
    /// The stream ends after some text.
    CutLate,
    /// The stream ends before any content.
    CutEarly,
    /// After some text, something unreadable comes.
    Malformed,
    /// After some text, the upstream reports an error.
    InBand,
    /// The model finishes without content.
    Empty,
    Busy,
    RateLimited,
    Rejected,
    Invalid,
}

/// A client under test, with its upstream.
#[async_trait]
pub(super) trait Subject: Send {
    /// Returns a client that meets `case` with its next call, and the request for that call.
    async fn prepare(&mut self, case: Case) -> (Arc<dyn ModelClient>, ModelRequest);

    /// Returns the number of calls that the upstream still answers.
    async fn calls_under_way(&self) -> usize;
}

/// All items of one call.
#[derive(Debug, Default)]
struct Heard {
    events: Vec<ModelEvent>,
    error: Option<ModelError>,
}

impl Heard {
    fn text(&self) -> String {
        self.events
            .iter()
            .filter_map(|e| match e {
                ModelEvent::TextDelta(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    fn calls(&self) -> Vec<&ToolCall> {
        self.events
            .iter()
            .filter_map(|e| match e {
                ModelEvent::ToolCall(call) => Some(call),
                _ => None,
            })
            .collect()
    }

    fn finishes(&self) -> Vec<FinishReason> {
        self.events
            .iter()
            .filter_map(|e| match e {
                ModelEvent::Finish(reason) => Some(*reason),
                _ => None,
            })
            .collect()
    }
}

async fn hear(subject: &mut impl Subject, case: Case) -> Heard {
    let (client, request) = subject.prepare(case).await;
    let mut heard = Heard::default();
    let mut stream = match client.stream(request).await {
        Ok(stream) => stream,
        Err(error) => return Heard { error: Some(error), ..heard },
    };
    while let Some(item) = stream.next().await {
        assert!(heard.error.is_none(), "{case:?}: {item:?} follows an error");
        match item {
            Ok(event) => heard.events.push(event),
            Err(error) => heard.error = Some(error),
        }
    }
    heard
}

/// Runs the whole contract on a client.
pub(super) async fn holds(mut subject: impl Subject) {
    ends_well(&mut subject).await;
    calls_tools(&mut subject).await;
    ends_badly(&mut subject).await;
    stops_when_dropped(&mut subject).await;
    assert_eq!(subject.calls_under_way().await, 0, "no call runs in the background");
}

async fn ends_well(subject: &mut impl Subject) {
    for case in [Case::Text, Case::Reasoning, Case::Call, Case::TwoCalls, Case::Limit] {
        let heard = hear(subject, case).await;
        assert!(heard.error.is_none(), "{case:?}: {heard:?}");
        assert_eq!(heard.finishes().len(), 1, "{case:?} finishes once");
        let after = heard.events.iter().skip_while(|e| !matches!(e, ModelEvent::Finish(_))).skip(1);
        assert!(
            after.clone().all(|e| matches!(e, ModelEvent::Usage(_))),
            "{case:?}: {after:?} follows the end"
        );
        let usage = heard.events.iter().rev().find_map(|e| match e {
            ModelEvent::Usage(usage) => Some(usage),
            _ => None,
        });
        let usage = usage.expect("both upstreams report usage");
        assert!(usage.input_tokens > Some(0) && usage.output_tokens > Some(0), "{case:?}: {usage:?}");
        let empty = heard
            .events
            .iter()
            .any(|e| matches!(e, ModelEvent::TextDelta(t) | ModelEvent::ReasoningDelta(t) if t.is_empty()));
        assert!(!empty, "{case:?}: a delta is never empty");
    }
    let heard = hear(subject, Case::Text).await;
    assert_eq!((heard.text().as_str(), heard.finishes()[0]), ("hello there", FinishReason::EndTurn));
    let deltas = heard.events.iter().filter(|e| matches!(e, ModelEvent::TextDelta(_))).count();
    assert!(deltas > 1, "text is streamed");

    let heard = hear(subject, Case::Reasoning).await;
    let is_reasoning = |e: &ModelEvent| matches!(e, ModelEvent::ReasoningDelta(_));
    let is_text = |e: &ModelEvent| matches!(e, ModelEvent::TextDelta(_));
    let last_thought = heard.events.iter().rposition(is_reasoning).expect("it reasons");
    assert!(last_thought < heard.events.iter().position(is_text).expect("it answers"));

    let heard = hear(subject, Case::Limit).await;
    assert!(!heard.text().is_empty() && heard.finishes() == [FinishReason::MaxTokens]);
}

async fn calls_tools(subject: &mut impl Subject) {
    let heard = hear(subject, Case::Call).await;
    let [call] = heard.calls()[..] else { panic!("{heard:?}") };
    assert_eq!(call.name, "shell");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&call.arguments).unwrap()["command"], "ls");
    assert!(!call.id.is_empty());
    assert_eq!(heard.finishes(), [FinishReason::ToolUse]);
    assert!(
        heard.events.iter().any(|e| matches!(e, ModelEvent::ToolCallDelta { .. })),
        "arguments are progress"
    );

    let heard = hear(subject, Case::TwoCalls).await;
    let [one, other] = heard.calls()[..] else { panic!("{heard:?}") };
    assert_ne!(one.id, other.id);
}

async fn ends_badly(subject: &mut impl Subject) {
    let table = [
        (Case::CutLate, FailureClass::Cut, true),
        (Case::CutEarly, FailureClass::Cut, false),
        (Case::Malformed, FailureClass::Malformed, true),
        (Case::InBand, FailureClass::InBand, true),
        (Case::Empty, FailureClass::EmptyTurn, false),
        (Case::Busy, FailureClass::Transient, false),
        (Case::RateLimited, FailureClass::RateLimited, false),
        (Case::Rejected, FailureClass::Rejected, false),
        (Case::Invalid, FailureClass::InvalidRequest, false),
    ];
    for (case, class, text_before) in table {
        let heard = hear(subject, case).await;
        let error = heard.error.as_ref().unwrap_or_else(|| panic!("{case:?} does not fail: {heard:?}"));
        assert_eq!(error.class(), class, "{case:?}: {error}");
        assert_eq!(!heard.text().is_empty(), text_before, "{case:?}: {heard:?}");
        assert!(heard.finishes().is_empty(), "{case:?} does not finish too");
        if class == FailureClass::RateLimited {
            assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
        }
    }
}

async fn stops_when_dropped(subject: &mut impl Subject) {
    let (client, request) = subject.prepare(Case::Endless).await;
    let mut stream = client.stream(request).await.unwrap();
    let mut texts = 0;
    while texts < 3 {
        let item = stream.next().await.expect("it never stops");
        texts += usize::from(matches!(item.unwrap(), ModelEvent::TextDelta(_)));
    }
    drop(stream);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while subject.calls_under_way().await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the upstream still answers a dropped stream");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

mod demo {
    use super::*;
    use crate::{
        domain::tools,
        model::{demo::Demo, model_client::Message},
    };

    struct DemoSubject;

    #[async_trait]
    impl Subject for DemoSubject {
        async fn prepare(&mut self, case: Case) -> (Arc<dyn ModelClient>, ModelRequest) {
            let input = match case {
                Case::Text => "say hello there",
                Case::Reasoning => "think about it",
                Case::Call => "run ls",
                Case::TwoCalls => "run ls\nlist",
                Case::Limit => "say one two three four",
                Case::Endless => "count to 100000 every 1ms",
                Case::CutLate => "fail cut after 2 words",
                Case::CutEarly => "fail cut",
                Case::Malformed => "fail malformed after 2 words",
                Case::InBand => "fail error after 2 words",
                Case::Empty => "fail empty",
                Case::Busy => "fail busy",
                Case::RateLimited => "fail limit",
                Case::Rejected => "fail reject",
                Case::Invalid => "fail invalid",
            };
            let request = ModelRequest {
                model: "demo".into(),
                messages: vec![Message::user(input)],
                tools: tools::specs(),
                max_output_tokens: (case == Case::Limit).then_some(2),
                ..ModelRequest::default()
            };
            (Arc::new(Demo::new(Duration::ZERO)), request)
        }

        async fn calls_under_way(&self) -> usize {
            0
        }
    }

    #[tokio::test]
    async fn the_demo_model_keeps_the_contract() {
        holds(DemoSubject).await;
    }
}

mod openai {
    use serde_json::json;

    use super::*;
    use crate::{
        domain::{
            settings::{OpenAiConfig, Timeouts},
            tools,
        },
        model::{
            model_client::Message,
            openai::OpenAi,
            scripted::{Reply, Upstream},
        },
    };

    struct OpenAiSubject {
        upstream: Upstream,
        client: Arc<OpenAi>,
    }

    #[async_trait]
    impl Subject for OpenAiSubject {
        async fn prepare(&mut self, case: Case) -> (Arc<dyn ModelClient>, ModelRequest) {
            let call = |reply: Reply, index, id| reply.call(index, id, "shell", &json!({ "command": "ls" }));
            let begun = || Reply::stream().say("hello there ");
            self.upstream.enqueue(match case {
                Case::Text => Reply::text("hello there"),
                Case::Reasoning => Reply::stream().reason("let me see").say("done").finish("stop"),
                Case::Call => call(Reply::stream(), 0, "a").finish("tool_calls"),
                Case::TwoCalls => call(call(Reply::stream(), 0, "a"), 1, "b").finish("tool_calls"),
                Case::Limit => begun().finish("length"),
                Case::Endless => begun().endless("on ", Duration::from_millis(1)),
                Case::CutLate => begun(),
                Case::CutEarly => Reply::stream(),
                Case::Malformed => begun().raw("data: {oops\n\n"),
                Case::InBand => begun().error("server_error", "it broke"),
                Case::Empty => Reply::stream().finish("stop"),
                Case::Busy => Reply::refusal(503, "overloaded", "try later"),
                Case::RateLimited => {
                    Reply::refusal(429, "rate_limit_exceeded", "slow down").header("retry-after", "1")
                }
                Case::Rejected => Reply::refusal(403, "forbidden", "not you"),
                Case::Invalid => Reply::refusal(400, "invalid_request_error", "not so"),
            });
            let request = ModelRequest {
                model: "scripted".into(),
                messages: vec![Message::user("go")],
                tools: tools::specs(),
                ..ModelRequest::default()
            };
            (self.client.clone(), request)
        }

        async fn calls_under_way(&self) -> usize {
            self.upstream.under_way()
        }
    }

    #[tokio::test]
    async fn the_openai_client_keeps_the_contract() {
        let upstream = Upstream::start().await.unwrap();
        let config = OpenAiConfig {
            base_url: upstream.base_url().parse().unwrap(),
            api_key: None,
            provider: "openai".into(),
            proxy: None,
            timeouts: Timeouts::default(),
        };
        let client = Arc::new(OpenAi::new(&config).unwrap());
        holds(OpenAiSubject { upstream, client }).await;
    }
}
