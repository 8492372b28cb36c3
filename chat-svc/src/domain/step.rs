//! One model step: the events of one model call, and what becomes of them.

mod event;

pub use event::{FinishReason, ModelEvent, Pulse, ToolCall, Usage};
