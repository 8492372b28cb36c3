//! Decodes the chunks of a streaming chat completion, without I/O: callers pass in frames and get model
//! events.
//!
//! Compatible servers omit and repeat different fields; everything unambiguous is accepted. Usage and the
//! finish are reported after the whole stream was read, because some servers send usage after the finish
//! reason, some before, some twice.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::refusal;
use crate::{
    domain::step::{MAX_STEP_BYTES, MAX_TOOL_CALLS},
    model::{
        model_client::{FinishReason, ModelError, ModelEvent, Pulse, ToolCall, Usage},
        sse::Frame,
    },
};

/// Data of the last event.
const DONE: &str = "[DONE]";

#[derive(Debug, Default)]
pub(super) struct Decoder {
    events: VecDeque<ModelEvent>,
    calls: Vec<PartialCall>,
    arguments_bytes: usize,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    refused: bool,
    has_content: bool,
    done: bool,
}

/// A tool call that is still arriving.
#[derive(Debug)]
struct PartialCall {
    index: Option<u32>,
    id: String,
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    /// Another server's name for `reasoning_content`.
    reasoning: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: Option<u32>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Decoder {
    pub(super) fn frame(&mut self, frame: Frame) -> Result<(), ModelError> {
        let (name, data) = match frame {
            Frame::Comment => {
                self.events.push_back(ModelEvent::Pulse(Pulse::Bytes));
                return Ok(());
            }
            Frame::Event { name, data } => (name, data),
        };
        if data.trim() == DONE {
            self.done = true;
            return Ok(());
        }
        if name == "error" {
            return Err(refusal::in_band(&data).unwrap_or_else(|| refusal::of_error(&Value::String(data))));
        }
        let chunk: Chunk = serde_json::from_str(&data).map_err(|error| {
            // Serde's message quotes at most one token of the payload.
            malformed(format!("a chunk is no chat completion chunk ({error})"))
        })?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(refusal::of_error(&error));
        }
        let before = self.events.len();
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
        }
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta {
                self.delta(delta)?;
            }
            // Some servers send "" instead of null.
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish = Some(finish_reason(&reason));
            }
        }
        if self.events.len() == before {
            self.events.push_back(ModelEvent::Pulse(Pulse::Event));
        }
        Ok(())
    }

    /// Takes the next event.
    pub(super) fn next_event(&mut self) -> Option<ModelEvent> {
        self.events.pop_front()
    }

    /// Whether the model ended its message; usage may still come.
    pub(super) const fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Whether the end mark has arrived.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Ends the stream. Returns the remaining events: tool calls, usage and the finish.
    ///
    /// # Errors
    /// The reason for which the answer is incomplete.
    pub(super) fn end(mut self) -> Result<Vec<ModelEvent>, ModelError> {
        let Some(mut finish) = self.finish else { return Err(ModelError::Cut { source: None }) };
        if self.refused && finish == FinishReason::EndTurn {
            finish = FinishReason::Refusal;
        }
        let mut events: Vec<_> = self.events.drain(..).collect();
        let mut calls = 0;
        for (index, call) in self.calls.into_iter().enumerate() {
            match call.whole(index) {
                Ok(call) => {
                    calls += 1;
                    events.push(ModelEvent::ToolCall(call));
                }
                // The token limit cut the call's arguments, so the call is dropped.
                Err(_) if finish == FinishReason::MaxTokens => {}
                Err(error) => return Err(error),
            }
        }
        if !self.has_content && calls == 0 {
            return Err(ModelError::Empty { finish });
        }
        // Some servers give a message with tool calls the finish reason "stop".
        if calls > 0 && finish == FinishReason::EndTurn {
            finish = FinishReason::ToolUse;
        }
        events.extend(self.usage.map(ModelEvent::Usage));
        events.push(ModelEvent::Finish(finish));
        Ok(events)
    }

    fn delta(&mut self, delta: Delta) -> Result<(), ModelError> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let reasoning = some(delta.reasoning_content).or(some(delta.reasoning));
        let refusal = some(delta.refusal);
        self.refused |= refusal.is_some();
        let texts = [some(delta.content), refusal].into_iter().flatten().map(ModelEvent::TextDelta);
        let said: Vec<_> = reasoning.map(ModelEvent::ReasoningDelta).into_iter().chain(texts).collect();
        let calls = delta.tool_calls.unwrap_or_default();
        if self.finish.is_some() && !(said.is_empty() && calls.is_empty()) {
            return Err(malformed("content follows the finish reason".to_owned()));
        }
        self.has_content |= !said.is_empty();
        self.events.extend(said);
        for call in calls {
            self.call(call)?;
        }
        Ok(())
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), ModelError> {
        let function = delta.function.unwrap_or(FunctionDelta { name: None, arguments: None });
        let id = delta.id.unwrap_or_default();
        // Finds the call by its index; servers that omit the index, or use one for all calls, start each call
        // with a new id.
        let known = self.calls.iter().rposition(|call| match delta.index {
            Some(index) => call.index == Some(index),
            None => true,
        });
        let known =
            known.filter(|&at| id.is_empty() || self.calls[at].id.is_empty() || self.calls[at].id == id);
        let at = match known {
            Some(at) => at,
            None if self.calls.len() == MAX_TOOL_CALLS => {
                return Err(malformed("too many tool calls".to_owned()));
            }
            None => {
                let (name, arguments) = (String::new(), String::new());
                self.calls.push(PartialCall { index: delta.index, id: String::new(), name, arguments });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        if !id.is_empty() {
            call.id = id;
        }
        // The name is never split; some servers repeat it in every delta.
        if let Some(name) = function.name.filter(|name| !name.is_empty()) {
            call.name = name;
        }
        let arguments = function.arguments.unwrap_or_default();
        self.arguments_bytes += arguments.len();
        if self.arguments_bytes > MAX_STEP_BYTES {
            return Err(malformed("arguments are too long".to_owned()));
        }
        call.arguments.push_str(&arguments);
        self.events.push_back(ModelEvent::ToolCallDelta { bytes: arguments.len() });
        Ok(())
    }
}

impl PartialCall {
    fn whole(self, index: usize) -> Result<ToolCall, ModelError> {
        if self.name.is_empty() {
            return Err(malformed("a tool call has no name".to_owned()));
        }
        let arguments = if self.arguments.trim().is_empty() { "{}".to_owned() } else { self.arguments };
        if serde_json::from_str::<Map<String, Value>>(&arguments).is_err() {
            return Err(malformed("a tool call's arguments are no JSON object".to_owned()));
        }
        let id = if self.id.is_empty() { format!("call_{}", index + 1) } else { self.id };
        Ok(ToolCall { id, name: self.name, arguments })
    }
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let prompt = wire.prompt_tokens_details;
        Self {
            input_tokens: wire.prompt_tokens,
            output_tokens: wire.completion_tokens,
            cache_read_tokens: prompt.as_ref().and_then(|details| details.cached_tokens),
            cache_write_tokens: prompt.as_ref().and_then(|details| details.cache_write_tokens),
            reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
        }
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "stop" | "end_turn" => FinishReason::EndTurn,
        "tool_calls" | "function_call" => FinishReason::ToolUse,
        "length" | "max_tokens" => FinishReason::MaxTokens,
        "content_filter" => FinishReason::Refusal,
        _ => FinishReason::Unknown,
    }
}

const fn malformed(problem: String) -> ModelError {
    ModelError::Malformed { problem }
}

#[cfg(test)]
mod tests;
