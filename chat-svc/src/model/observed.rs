//! Spans and metrics around any [`ModelClient`], named by OpenTelemetry's conventions for generative AI.
//!
//! One call is one CLIENT span, open until its stream has ended or was dropped. Its error type is the
//! failure's stable reason, never an upstream's text; a stream that was dropped before its end is `CANCELED`.
//! Content is recorded only with `capture_content`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use opentelemetry::{Array, KeyValue, StringValue, Value, trace::Status};
use serde_json::json;
use svc_core::error::Chain;
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
use crate::metrics::ModelMetrics;

/// Maximum bytes of content in one attribute.
const MAX_CONTENT_BYTES: usize = 64 * 1024;

/// Error type of a stream that was dropped before its end.
const CANCELED: &str = "CANCELED";

/// A client with spans and metrics.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    inner: Arc<dyn ModelClient>,
    metrics: ModelMetrics,
    /// Attributes of every call.
    common: Vec<KeyValue>,
    capture_content: bool,
}

impl Observed {
    pub(crate) fn new(inner: Arc<dyn ModelClient>, capture_content: bool) -> Self {
        let mut common = vec![
            KeyValue::new(semconv::OPERATION_NAME, semconv::CHAT),
            KeyValue::new(semconv::PROVIDER_NAME, inner.provider().to_owned()),
        ];
        // The demo model's endpoint is not a URL.
        if let Ok(url) = Url::parse(inner.endpoint()) {
            common.extend(url.host_str().map(|host| KeyValue::new(semconv::SERVER_ADDRESS, host.to_owned())));
            let port = url.port_or_known_default();
            common.extend(port.map(|port| KeyValue::new(semconv::SERVER_PORT, i64::from(port))));
        }
        Self { inner, metrics: ModelMetrics::new(), common, capture_content }
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
            metrics: self.metrics.clone(),
            common,
            started: Instant::now(),
            first_content: None,
            usage: None,
            finish: None,
            failure: None,
            output: self.capture_content.then(Vec::new),
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
            Ok(stream) => Ok(stream.inspect(move |item| observation.record(item.as_ref())).boxed()),
            Err(error) => {
                observation.record(Err(&error));
                Err(error)
            }
        }
    }
}

/// One call in progress. Dropping it records the call, because every call ends with the drop of its stream.
struct Observation {
    span: Span,
    metrics: ModelMetrics,
    common: Vec<KeyValue>,
    started: Instant,
    first_content: Option<Duration>,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    failure: Option<FailureClass>,
    /// The model's output, if content is captured.
    output: Option<Vec<Part>>,
}

impl Observation {
    fn record(&mut self, item: Result<&ModelEvent, &ModelError>) {
        let event = match item {
            Ok(event) => event,
            Err(error) => {
                self.failure = Some(error.class());
                tracing::warn!(
                    parent: &self.span, error = %Chain(error), reason = error.class().reason(),
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
        if let Some(output) = &mut self.output {
            match (event, output.last_mut()) {
                (ModelEvent::TextDelta(more), Some(Part::Text { text }))
                | (ModelEvent::ReasoningDelta(more), Some(Part::Reasoning { text, .. })) => {
                    text.push_str(more)
                }
                (ModelEvent::TextDelta(text), _) => output.push(Part::Text { text: text.clone() }),
                (ModelEvent::ReasoningDelta(text), _) => {
                    output.push(Part::Reasoning { text: text.clone(), signature: None });
                }
                (ModelEvent::ToolCall(call), _) => output.push(Part::ToolCall(call.clone())),
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

    /// The error type of a call that did not succeed.
    fn error_type(&self) -> Option<&'static str> {
        match (self.failure, self.finish) {
            (Some(class), _) => Some(class.reason()),
            (None, Some(_)) => None,
            (None, None) => Some(CANCELED),
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut attributes = std::mem::take(&mut self.common);
        if let Some(error) = self.error_type() {
            attributes.push(KeyValue::new(semconv::ERROR_TYPE, error));
            self.span.set_attribute(semconv::ERROR_TYPE, error);
            // A canceled call is not an error.
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
            self.metrics.first_chunk.record(first.as_secs_f64(), &attributes);
        }
        self.metrics.duration.record(self.started.elapsed().as_secs_f64(), &attributes);
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
                self.metrics.tokens.record(tokens, &attributes);
                attributes.pop();
            }
        }
        if let Some(output) = self.output.take() {
            let message = Message { role: Role::Assistant, parts: output };
            self.span.set_attribute(semconv::OUTPUT_MESSAGES, content(&[message]));
        }
    }
}

/// Renders messages as the JSON text of the conventions, cut to [`MAX_CONTENT_BYTES`].
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
