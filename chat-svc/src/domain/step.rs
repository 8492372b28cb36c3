//! One model step, without I/O: the events of one model call in; what is shown, and in the end the step's record,
//! out.
//!
//! A [`Step`] decides what is visible (text and reasoning, as it comes; a tool call only once its intent is
//! committed, so never from here), what the record holds (every part in the order in which it came, adjacent
//! deltas as one), whether the call ended well (an empty message or one that breaks off is a failure, whatever
//! the transport thought), and when it has been silent for too long ([`Clocks`]). It writes nothing, asks no
//! model and runs no tool.

mod clocks;
mod event;

use std::time::Instant;

pub use clocks::{Clock, ClockLimits, Clocks, Firing};
pub use event::{FinishReason, ModelEvent, Pulse, ToolCall, Usage};

use super::{
    event::TurnEvent,
    failover::FailureClass,
    message::{Message, Part, Role},
};

/// Most bytes of text, reasoning and arguments that one step may hold. Far above any model's longest answer:
/// it keeps an upstream that never ends from filling memory.
pub const MAX_STEP_BYTES: usize = 8 * 1024 * 1024;

/// Most tool calls of one step.
pub const MAX_TOOL_CALLS: usize = 128;

/// One model call as it goes on.
#[derive(Debug)]
pub struct Step {
    number: i32,
    parts: Vec<Part>,
    bytes: usize,
    calls: usize,
    spoke: bool,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    clocks: Clocks,
}

/// What a step that ended well leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// What the model said.
    pub message: Message,
    /// What it cost; `None` if the upstream did not say, which is not zero.
    pub usage: Option<Usage>,
    /// Why it ended. [`FinishReason::ToolUse`] exactly if there are tool calls to run.
    pub finish: FinishReason,
}

/// Why a step cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The model said something that no model may say.
    #[error("model stream is malformed: {0}")]
    Malformed(&'static str),
    /// The stream ended and the model had not.
    #[error("model stream was cut")]
    Cut,
    /// The model finished without having said anything.
    #[error("model said nothing")]
    Empty,
    /// A clock ran out.
    #[error(transparent)]
    TimedOut(#[from] Firing),
}

impl StepError {
    /// What may be done about it; `None` if the turn's own deadline is over, which ends the turn.
    #[must_use]
    pub const fn class(self) -> Option<FailureClass> {
        match self {
            Self::Malformed(_) => Some(FailureClass::Malformed),
            Self::Cut => Some(FailureClass::Cut),
            Self::Empty => Some(FailureClass::EmptyTurn),
            Self::TimedOut(Firing { clock: Clock::Bytes | Clock::Liveness | Clock::Progress, .. }) => {
                Some(FailureClass::Stalled)
            }
            Self::TimedOut(Firing { clock: Clock::Deadline, .. }) => None,
        }
    }
}

impl Step {
    /// Step `number` begins. `kept` is text that an earlier attempt showed and this one goes on from; empty
    /// unless the step was spliced.
    #[must_use]
    pub fn new(number: i32, kept: String, clocks: Clocks) -> Self {
        let bytes = kept.len();
        let parts = if kept.is_empty() { Vec::new() } else { vec![Part::Text { text: kept }] };
        Self { number, parts, bytes, calls: 0, spoke: false, usage: None, finish: None, clocks }
    }

    /// Takes in one event; what comes back is to be shown.
    ///
    /// # Errors
    /// [`StepError`] if the step has to end; what was shown stays shown, and [`Self::partial`] still holds it.
    pub fn handle(&mut self, event: ModelEvent, now: Instant) -> Result<Option<TurnEvent>, StepError> {
        self.clocks.note(&event, now);
        // A stream that never falls silent must not outrun the clocks it does not reset.
        if let Some(firing) = self.clocks.fired(now) {
            return Err(firing.into());
        }
        let after_finish = matches!(event, ModelEvent::Usage(_) | ModelEvent::Pulse(_));
        if self.finish.is_some() && !after_finish {
            return Err(StepError::Malformed("something follows the end of the message"));
        }
        match event {
            ModelEvent::TextDelta(text) => self.text(text),
            ModelEvent::ReasoningDelta(text) => self.reasoning(text),
            ModelEvent::ToolCall(call) => self.call(call).map(|()| None),
            ModelEvent::ToolCallDelta { .. } | ModelEvent::Pulse(_) => Ok(None),
            ModelEvent::Usage(usage) => {
                self.usage = Some(usage);
                Ok(None)
            }
            ModelEvent::Finish(reason) => {
                self.finish = Some(reason);
                Ok(None)
            }
        }
    }

    /// When to ask [`Self::fired`] again, if nothing comes until then.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.clocks.poll_timeout()
    }

    /// The clock that has run out by `now`, if one has.
    #[must_use]
    pub fn fired(&self, now: Instant) -> Option<Firing> {
        self.clocks.fired(now)
    }

    /// The stream ended.
    ///
    /// # Errors
    /// [`StepError::Cut`] if the model had not finished, [`StepError::Empty`] if it had and said nothing.
    pub fn end(self) -> Result<StepRecord, StepError> {
        let reason = self.finish.ok_or(StepError::Cut)?;
        if !self.spoke {
            return Err(StepError::Empty);
        }
        // Upstreams disagree with themselves about it ("stop" with tool calls, "tool_calls" with none); what
        // is to be run decides.
        let finish = match (self.calls > 0, reason) {
            (true, _) => FinishReason::ToolUse,
            (false, FinishReason::ToolUse) => FinishReason::EndTurn,
            (false, other) => other,
        };
        Ok(StepRecord {
            message: Message { role: Role::Assistant, parts: self.parts },
            usage: self.usage,
            finish,
        })
    }

    /// What was shown until now: text and reasoning. Calls that were never committed are not part of it.
    #[must_use]
    pub fn partial(&self) -> Vec<Part> {
        self.parts.iter().filter(|part| !matches!(part, Part::ToolCall(_))).cloned().collect()
    }

    /// What the call cost so far, as far as the upstream said.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn text(&mut self, text: String) -> Result<Option<TurnEvent>, StepError> {
        self.count(&text)?;
        match self.parts.last_mut() {
            Some(Part::Text { text: whole }) => whole.push_str(&text),
            _ => self.parts.push(Part::Text { text: text.clone() }),
        }
        Ok(Some(TurnEvent::TextDelta { step: self.number, text }))
    }

    fn reasoning(&mut self, text: String) -> Result<Option<TurnEvent>, StepError> {
        self.count(&text)?;
        match self.parts.last_mut() {
            Some(Part::Reasoning { text: whole, signature: None }) => whole.push_str(&text),
            _ => self.parts.push(Part::Reasoning { text: text.clone(), signature: None }),
        }
        Ok(Some(TurnEvent::ReasoningDelta { step: self.number, text }))
    }

    fn call(&mut self, call: ToolCall) -> Result<(), StepError> {
        self.count(&call.arguments)?;
        self.calls += 1;
        if self.calls > MAX_TOOL_CALLS {
            return Err(StepError::Malformed("more tool calls than a step may have"));
        }
        // Results are matched to calls by id: two calls with one id would share a result.
        if call.id.is_empty() || self.parts.iter().any(|p| matches!(p, Part::ToolCall(c) if c.id == call.id))
        {
            return Err(StepError::Malformed("a tool call's id is missing or used twice"));
        }
        self.parts.push(Part::ToolCall(call));
        Ok(())
    }

    fn count(&mut self, more: &str) -> Result<(), StepError> {
        self.spoke = true;
        self.bytes = self.bytes.saturating_add(more.len());
        if self.bytes > MAX_STEP_BYTES {
            return Err(StepError::Malformed("the answer is longer than a step may be"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
