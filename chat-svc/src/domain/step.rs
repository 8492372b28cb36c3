//! One model step, without I/O: takes the events of one model call, returns events for clients and at its end
//! the step's record.
//!
//! A [`Step`] decides
//!
//! * what clients see: text and reasoning as they arrive, but no tool call (`app::run` shows it once its
//!   intent is committed);
//! * what the record holds: every part in order of arrival, adjacent deltas as one;
//! * whether the call succeeded: an empty or unfinished message is a failure;
//! * when the call has been silent for too long ([`Clocks`]).

mod clocks;
mod event;

use std::time::Instant;

pub(crate) use clocks::{Clock, ClockLimits, Clocks, Firing};
pub(crate) use event::{FinishReason, ModelEvent, Pulse};

use super::{
    event::TurnEvent,
    failure::FailureClass,
    message::{Message, Part, Role, ToolCall},
    usage::Usage,
};

/// Maximum bytes of text, reasoning and arguments in one step, so that an endless stream cannot fill the
/// memory; far above any model's longest answer.
pub(crate) const MAX_STEP_BYTES: usize = 8 * 1024 * 1024;

/// Maximum tool calls of one step.
pub(crate) const MAX_TOOL_CALLS: usize = 128;

/// One model call in progress.
#[derive(Debug)]
pub(crate) struct Step {
    number: i32,
    parts: Vec<Part>,
    bytes: usize,
    calls: usize,
    has_content: bool,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    clocks: Clocks,
}

/// Result of a step that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepRecord {
    pub message: Message,
    /// `None` if the upstream did not report it, which is not zero.
    pub usage: Option<Usage>,
    /// [`FinishReason::ToolUse`] exactly if there are tool calls to run.
    pub finish: FinishReason,
}

/// Why a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StepError {
    #[error("model stream is malformed: {0}")]
    Malformed(&'static str),
    /// The stream ended before the model finished.
    #[error("model stream was cut")]
    Cut,
    /// The model finished without text, reasoning or tool call.
    #[error("model said nothing")]
    Empty,
    #[error(transparent)]
    TimedOut(#[from] Firing),
}

impl StepError {
    /// Returns the failure class; `None` if the turn's own deadline has passed, which ends the turn.
    pub(crate) const fn class(self) -> Option<FailureClass> {
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
    /// Starts step `number`. `kept` is the text of an earlier attempt that this one continues; empty unless
    /// the step was spliced.
    pub(crate) fn new(number: i32, kept: String, clocks: Clocks) -> Self {
        let bytes = kept.len();
        let parts = if kept.is_empty() { Vec::new() } else { vec![Part::Text { text: kept }] };
        Self { number, parts, bytes, calls: 0, has_content: false, usage: None, finish: None, clocks }
    }

    /// Processes one event. Returns the event to show, if any.
    ///
    /// # Errors
    /// [`StepError`] if the event is malformed or a clock has run out.
    pub(crate) fn handle(&mut self, event: ModelEvent, now: Instant) -> Result<Option<TurnEvent>, StepError> {
        self.clocks.restart(&event, now);
        // Checks the clocks after every event too, because a stream that is never silent may exceed a clock
        // that its events do not restart.
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

    /// Returns the time at which to call [`Self::fired`] if no event arrives before.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.clocks.poll_timeout()
    }

    /// The clock that has run out by `now`, if any.
    pub(crate) fn fired(&self, now: Instant) -> Option<Firing> {
        self.clocks.fired(now)
    }

    /// Ends the step when its stream has ended.
    ///
    /// # Errors
    /// [`StepError::Cut`] if the model had not finished, [`StepError::Empty`] if it finished without content.
    pub(crate) fn end(self) -> Result<StepRecord, StepError> {
        let reason = self.finish.ok_or(StepError::Cut)?;
        if !self.has_content {
            return Err(StepError::Empty);
        }
        // The finish reason of some upstreams contradicts the calls ("stop" with tool calls, "tool_calls"
        // without any); the calls decide.
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

    /// Usage that the upstream has reported so far.
    pub(crate) const fn usage(&self) -> Option<Usage> {
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
        self.has_content = true;
        self.bytes = self.bytes.saturating_add(more.len());
        if self.bytes > MAX_STEP_BYTES {
            return Err(StepError::Malformed("the answer is longer than a step may be"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
