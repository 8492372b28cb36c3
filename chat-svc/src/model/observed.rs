//! Spans and metrics around any [`ModelClient`], named by OpenTelemetry's conventions for generative AI.
//!
//! One call is one CLIENT span, open until its stream ended or was dropped, a child of the span it was made in.
//! Its error type is the failure's stable reason, never an upstream's words; a stream that was dropped before
//! its end is `CANCELED`. What was said is recorded only where capturing content was switched on.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use opentelemetry::{
    Array, KeyValue, StringValue, Value, global,
    metrics::{Histogram, Meter},
    trace::Status,
};
use serde_json::json;
use tokio::time::Instant;
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use url::Url;

use super::{
    model_client::{
        FailureClass, FinishReason, Message, ModelClient, ModelError, ModelEvent, ModelRequest, ModelStream,
        Part, Role, Usage,
    },
    semconv,
};

/// Most bytes of content that one attribute takes.
const MAX_CONTENT_BYTES: usize = 64 * 1024;

/// A client whose calls are seen.
#[derive(Debug, Clone)]
pub struct Observed {
    inner: Arc<dyn ModelClient>,
    instruments: Instruments,
    /// Attributes every call has.
    common: Vec<KeyValue>,
    capture_content: bool,
}

#[derive(Debug, Clone)]
struct Instruments {
    tokens: Histogram<u64>,
    duration: Histogram<f64>,
    first_chunk: Histogram<f64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds =
            || vec![0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
        let powers_of_four = (0..14).map(|n| f64::from(4_u32.pow(n))).collect();
        Self {
            tokens: meter
                .u64_histogram(semconv::METRIC_TOKEN_USAGE)
                .with_unit("{token}")
                .with_description("Tokens of model calls, by direction.")
                .with_boundaries(powers_of_four)
                .build(),
            duration: meter
                .f64_histogram(semconv::METRIC_OPERATION_DURATION)
                .with_unit("s")
                .with_description("Time from a model call's start to its stream's end.")
                .with_boundaries(seconds())
                .build(),
            first_chunk: meter
                .f64_histogram(semconv::METRIC_TIME_TO_FIRST_CHUNK)
                .with_unit("s")
                .with_description("Time from a model call's start to its first content.")
                .with_boundaries(seconds())
                .build(),
        }
    }
}

impl Observed {
    /// Observes `inner`, with the process's meter.
    #[must_use]
    pub fn new(inner: Arc<dyn ModelClient>, capture_content: bool) -> Self {
        Self::with_meter(inner, capture_content, &global::meter("steward.chat"))
    }

    fn with_meter(inner: Arc<dyn ModelClient>, capture_content: bool, meter: &Meter) -> Self {
        let mut common = vec![
            KeyValue::new(semconv::OPERATION_NAME, semconv::CHAT),
            KeyValue::new(semconv::PROVIDER_NAME, inner.provider().to_owned()),
        ];
        // What is no URL (the demo model) has no server.
        if let Ok(url) = Url::parse(inner.endpoint()) {
            common.extend(url.host_str().map(|host| KeyValue::new(semconv::SERVER_ADDRESS, host.to_owned())));
            let port = url.port_or_known_default();
            common.extend(port.map(|port| KeyValue::new(semconv::SERVER_PORT, i64::from(port))));
        }
        Self { inner, instruments: Instruments::new(meter), common, capture_content }
    }

    fn begin(&self, request: &ModelRequest) -> Observation {
        let span = info_span!(
            "model.call",
            otel.name = format!("{} {}", semconv::CHAT, request.model),
            otel.kind = "client",
        );
        let mut common = self.common.clone();
        common.push(KeyValue::new(semconv::REQUEST_MODEL, request.model.clone()));
        for attribute in &common {
            span.set_attribute(attribute.key.clone(), attribute.value.clone());
        }
        span.set_attribute(semconv::REQUEST_STREAM, true);
        if let Some(most) = request.max_output_tokens {
            span.set_attribute(semconv::REQUEST_MAX_TOKENS, i64::from(most));
        }
        if let Some(conversation) = &request.conversation_id {
            span.set_attribute(semconv::CONVERSATION_ID, conversation.clone());
        }
        if self.capture_content {
            span.set_attribute(semconv::INPUT_MESSAGES, content(&request.messages));
            if let Some(system) = &request.system {
                let parts = json!([{ "type": "text", "content": system }]);
                span.set_attribute(semconv::SYSTEM_INSTRUCTIONS, bounded(parts.to_string()));
            }
        }
        Observation {
            span,
            instruments: self.instruments.clone(),
            common,
            started: Instant::now(),
            first_content: None,
            usage: None,
            finish: None,
            failure: None,
            said: self.capture_content.then(Vec::new),
        }
    }
}

#[async_trait]
impl ModelClient for Observed {
    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn provider(&self) -> &str {
        self.inner.provider()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let mut observation = self.begin(&request);
        let span = observation.span.clone();
        match self.inner.stream(request).instrument(span).await {
            Ok(stream) => Ok(stream.inspect(move |item| observation.note(item.as_ref())).boxed()),
            Err(error) => {
                observation.note(Err(&error));
                Err(error)
            }
        }
    }
}

/// One call as it goes on; told when dropped, because that is when it is over, however it ended.
struct Observation {
    span: Span,
    instruments: Instruments,
    common: Vec<KeyValue>,
    started: Instant,
    first_content: Option<Duration>,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    failure: Option<FailureClass>,
    /// What the model said, if content is captured.
    said: Option<Vec<Part>>,
}

impl Observation {
    fn note(&mut self, item: Result<&ModelEvent, &ModelError>) {
        let event = match item {
            Ok(event) => event,
            Err(error) => {
                self.failure = Some(error.class());
                // The one place where an upstream's own words are written down, for operators.
                tracing::warn!(
                    parent: &self.span, error = %svc_core::wire::error::Chain(error), reason = error.class().reason(),
                    "model call failed"
                );
                return;
            }
        };
        match event {
            ModelEvent::Usage(usage) => self.usage = Some(*usage),
            ModelEvent::Finish(reason) => self.finish = Some(*reason),
            ModelEvent::Pulse(_) => {}
            ModelEvent::TextDelta(_)
            | ModelEvent::ReasoningDelta(_)
            | ModelEvent::ToolCallDelta { .. }
            | ModelEvent::ToolCall(_) => {
                self.first_content.get_or_insert_with(|| self.started.elapsed());
            }
        }
        if let Some(said) = &mut self.said {
            match (event, said.last_mut()) {
                (ModelEvent::TextDelta(more), Some(Part::Text { text }))
                | (ModelEvent::ReasoningDelta(more), Some(Part::Reasoning { text, .. })) => {
                    text.push_str(more)
                }
                (ModelEvent::TextDelta(text), _) => said.push(Part::Text { text: text.clone() }),
                (ModelEvent::ReasoningDelta(text), _) => {
                    said.push(Part::Reasoning { text: text.clone(), signature: None });
                }
                (ModelEvent::ToolCall(call), _) => said.push(Part::ToolCall(call.clone())),
                (
                    ModelEvent::ToolCallDelta { .. }
                    | ModelEvent::Usage(_)
                    | ModelEvent::Finish(_)
                    | ModelEvent::Pulse(_),
                    _,
                ) => {}
            }
        }
    }

    /// The reason it did not end well, if it did not.
    fn error_type(&self) -> Option<&'static str> {
        match (self.failure, self.finish) {
            (Some(class), _) => Some(class.reason()),
            (None, Some(_)) => None,
            (None, None) => Some(FailureClass::Canceled.reason()),
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut attributes = std::mem::take(&mut self.common);
        if let Some(error) = self.error_type() {
            attributes.push(KeyValue::new(semconv::ERROR_TYPE, error));
            self.span.set_attribute(semconv::ERROR_TYPE, error);
            // Being stopped is no fault of the call.
            if self.failure.is_some() {
                self.span.set_status(Status::error(error));
            }
        }
        if let Some(finish) = self.finish {
            let reasons = Array::String(vec![StringValue::from(finish.as_str())]);
            self.span.set_attribute(semconv::RESPONSE_FINISH_REASONS, Value::Array(reasons));
        }
        if let Some(first) = self.first_content {
            self.span.set_attribute(semconv::RESPONSE_TIME_TO_FIRST_CHUNK, first.as_secs_f64());
            self.instruments.first_chunk.record(first.as_secs_f64(), &attributes);
        }
        self.instruments.duration.record(self.started.elapsed().as_secs_f64(), &attributes);
        let usage = self.usage.unwrap_or_default();
        for (name, tokens) in [
            (semconv::USAGE_INPUT_TOKENS, usage.input_tokens),
            (semconv::USAGE_OUTPUT_TOKENS, usage.output_tokens),
            (semconv::USAGE_CACHE_READ, usage.cache_read_tokens),
            (semconv::USAGE_CACHE_CREATION, usage.cache_write_tokens),
            (semconv::USAGE_REASONING, usage.reasoning_tokens),
        ] {
            if let Some(tokens) = tokens {
                self.span.set_attribute(name, i64::try_from(tokens).unwrap_or(i64::MAX));
            }
        }
        for (direction, tokens) in [("input", usage.input_tokens), ("output", usage.output_tokens)] {
            if let Some(tokens) = tokens {
                attributes.push(KeyValue::new(semconv::TOKEN_TYPE, direction));
                self.instruments.tokens.record(tokens, &attributes);
                attributes.pop();
            }
        }
        if let Some(said) = self.said.take() {
            let message = Message { role: Role::Assistant, parts: said };
            self.span.set_attribute(semconv::OUTPUT_MESSAGES, content(&[message]));
        }
    }
}

/// Messages in the form of the conventions.
fn content(messages: &[Message]) -> String {
    let messages: Vec<_> = messages
        .iter()
        .map(|message| {
            let parts: Vec<_> = message.parts.iter().map(part).collect();
            json!({ "role": message.role, "parts": parts })
        })
        .collect();
    bounded(serde_json::Value::from(messages).to_string())
}

fn part(part: &Part) -> serde_json::Value {
    match part {
        Part::Text { text } => json!({ "type": "text", "content": text }),
        Part::Reasoning { text, .. } => json!({ "type": "reasoning", "content": text }),
        Part::Image { media_type, .. } => {
            json!({ "type": "blob", "modality": "image", "mime_type": media_type })
        }
        Part::ToolCall(call) => {
            json!({ "type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments })
        }
        Part::ToolResult { call_id, content, .. } => {
            json!({ "type": "tool_call_response", "id": call_id, "response": content })
        }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_CONTENT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_CONTENT_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
