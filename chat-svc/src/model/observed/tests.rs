use std::sync::Mutex;

use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::{instrument::WithSubscriber, subscriber::Subscriber};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::{
    domain::{
        settings::{OpenAiConfig, Timeouts},
        tools,
    },
    model::{
        demo::Demo,
        openai::OpenAi,
        scripted::{Reply, Upstream},
    },
};

/// Keeps every span that ended.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    /// Returns a subscriber that exports its spans to `self`.
    fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static {
        let provider = SdkTracerProvider::builder().with_simple_exporter(self.clone()).build();
        tracing_subscriber::registry()
            .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")))
    }

    fn only(&self) -> SpanData {
        let spans = self.0.lock().unwrap();
        assert_eq!(spans.len(), 1, "one call is one span");
        spans[0].clone()
    }
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|a| a.key.as_str() == key).map(|a| a.value.to_string())
}

fn request(input: &str) -> ModelRequest {
    ModelRequest {
        model: "demo".into(),
        system: Some("be kind".into()),
        messages: vec![Message::user(input)],
        tools: tools::specs(),
        max_output_tokens: Some(50),
        conversation_id: Some("session-1".into()),
    }
}

/// Returns the span of one call to the demo model. The stream is dropped after `events` items, or at its end
/// if it has fewer.
async fn span_of(input: &str, capture_content: bool, events: usize) -> SpanData {
    let kept = Kept::default();
    let call = async {
        let client = Observed::new(Arc::new(Demo::new(Duration::ZERO)), capture_content);
        if let Ok(stream) = client.stream(request(input)).await {
            let _heard: Vec<_> = stream.take(events).collect().await;
        }
    };
    call.with_subscriber(kept.subscriber()).await;
    kept.only()
}

#[tokio::test]
async fn a_call_is_one_client_span_named_by_the_conventions() {
    let span = span_of("think about rain", false, usize::MAX).await;
    assert_eq!((span.name.as_ref(), span.span_kind.clone()), ("chat demo", SpanKind::Client));
    let expected = [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "demo"),
        ("gen_ai.request.model", "demo"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.request.max_tokens", "50"),
        ("gen_ai.conversation.id", "session-1"),
        ("gen_ai.response.finish_reasons", "[\"end_turn\"]"),
        ("gen_ai.usage.cache_read.input_tokens", "0"),
    ];
    for (key, value) in expected {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    for key in ["input_tokens", "output_tokens", "reasoning.output_tokens"] {
        let tokens: u64 = attribute(&span, &format!("gen_ai.usage.{key}")).unwrap().parse().unwrap();
        assert!(tokens > 0, "{key}");
    }
    assert!(attribute(&span, "gen_ai.response.time_to_first_chunk").is_some());
    assert!(attribute(&span, "error.type").is_none() && span.status == Status::Unset);
}

#[tokio::test]
async fn content_is_recorded_only_with_capture_content() {
    let quiet = span_of("say a secret", false, usize::MAX).await;
    assert!(!format!("{quiet:?}").contains("secret"));
    let loud = span_of("say a secret", true, usize::MAX).await;
    let input = attribute(&loud, "gen_ai.input.messages").unwrap();
    assert_eq!(input, r#"[{"parts":[{"content":"say a secret","type":"text"}],"role":"user"}]"#);
    let output = attribute(&loud, "gen_ai.output.messages").unwrap();
    assert_eq!(output, r#"[{"parts":[{"content":"a secret","type":"text"}],"role":"assistant"}]"#);
    let system = attribute(&loud, "gen_ai.system_instructions").unwrap();
    assert_eq!(system, r#"[{"content":"be kind","type":"text"}]"#);
    let called = span_of("run ls", true, usize::MAX).await;
    assert!(attribute(&called, "gen_ai.output.messages").unwrap().contains("tool_call"));
}

#[tokio::test]
async fn failures_and_dropped_streams_have_different_error_types() {
    let table = [("fail cut after 2 words", "MODEL_STREAM_CUT"), ("fail busy", "MODEL_UNAVAILABLE")];
    for (input, reason) in table {
        let span = span_of(input, false, usize::MAX).await;
        assert_eq!(attribute(&span, "error.type").as_deref(), Some(reason), "{input}");
        assert_eq!(span.status, Status::error(reason), "{input}");
    }
    let dropped = span_of("count to 100", false, 5).await;
    assert_eq!(attribute(&dropped, "error.type").as_deref(), Some("CANCELED"));
    assert_eq!(dropped.status, Status::Unset, "a canceled call is not an error");
}

#[tokio::test]
async fn the_upstream_is_named_and_joins_the_trace() {
    let kept = Kept::default();
    let upstream = Upstream::start().await.unwrap();
    upstream.always(Reply::text("hello"));
    let config = OpenAiConfig {
        base_url: upstream.base_url().parse().unwrap(),
        api_key: None,
        provider: "openai".into(),
        proxy: None,
        timeouts: Timeouts::default(),
    };
    let call = async {
        let client = Observed::new(Arc::new(OpenAi::new(&config).unwrap()), false);
        let _heard: Vec<_> = client.stream(request("hi")).await.unwrap().collect().await;
    };
    call.with_subscriber(kept.subscriber()).await;
    let span = kept.only();
    assert_eq!(attribute(&span, "server.address").as_deref(), Some("127.0.0.1"));
    assert_eq!(attribute(&span, "server.port"), config.base_url.port().map(|port| port.to_string()));
    let traceparent = upstream.requests()[0].headers["traceparent"].to_str().unwrap().to_owned();
    let context = &span.span_context;
    assert_eq!(traceparent, format!("00-{}-{}-01", context.trace_id(), context.span_id()));
}
