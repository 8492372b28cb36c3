//! Messages of a session, in parts.
//!
//! [`Part`] is stored in its serde form, and clients read the same form: a change needs a migration of stored
//! rows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use svc_core::id::{AccountId, MessageId, SessionId, TurnId};

/// Author of a message. One step writes its messages in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
    /// Results of the tool calls in the assistant message before.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    pub id: MessageId,
    pub account_id: AccountId,
    pub session_id: SessionId,
    /// The turn that wrote it.
    pub turn_id: TurnId,
    /// The turn's place in the session.
    pub ordinal: i64,
    /// The step that wrote it; 0 is the input.
    pub step: i32,
    pub message: Message,
    /// The model's name in the route; empty unless a model wrote the message.
    pub model: String,
    /// Why the model ended the message; empty unless a model wrote it.
    pub finish_reason: String,
    pub created_at: DateTime<Utc>,
}

/// A tool call as a model made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolCall {
    /// The model's own id of the call: never empty, unique within its message.
    pub id: String,
    /// Name of the tool, not checked against any list.
    pub name: String,
    /// Arguments: one complete JSON object, as text.
    pub arguments: String,
}

impl Message {
    /// Builds a message of the user with one text.
    pub(crate) fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, parts: vec![Part::Text { text: text.into() }] }
    }

    /// Builds a message of the model with one text.
    pub(crate) fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, parts: vec![Part::Text { text: text.into() }] }
    }

    /// Bytes of all parts.
    pub(crate) fn bytes(&self) -> usize {
        let part = |part: &Part| match part {
            Part::Text { text } => text.len(),
            Part::Reasoning { text, signature } => text.len() + signature.as_ref().map_or(0, String::len),
            Part::Image { media_type, base64 } => media_type.len() + base64.len(),
            Part::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.len(),
            Part::ToolResult { call_id, name, content, .. } => call_id.len() + name.len() + content.len(),
        };
        self.parts.iter().map(part).sum()
    }

    /// All text parts, joined.
    pub(crate) fn text(&self) -> String {
        self.parts.iter().filter_map(Part::as_text).collect()
    }

    /// Tool calls, in order.
    pub(crate) fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            Part::Text { .. } | Part::Reasoning { .. } | Part::Image { .. } | Part::ToolResult { .. } => None,
        })
    }
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Part {
    Text {
        text: String,
    },
    /// The model's reasoning. It may be sent back only to the provider that signed it.
    Reasoning {
        text: String,
        /// The provider's own signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    Image {
        media_type: String,
        /// Content in standard base64.
        base64: String,
    },
    ToolCall(ToolCall),
    /// Result of a tool call.
    ToolResult {
        call_id: String,
        /// Name of the tool.
        name: String,
        /// Text for the model.
        content: String,
        /// Whether the tool failed, or may have failed.
        is_error: bool,
    },
}

impl Part {
    /// The text of a text part.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Reasoning { .. } | Self::Image { .. } | Self::ToolCall(_) | Self::ToolResult { .. } => None,
        }
    }
}

/// Replaces each NUL by the replacement character; Postgres cannot store NUL in text.
pub(crate) fn storable(mut message: Message) -> Message {
    let clean = |text: &mut String| {
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
        }
    };
    for part in &mut message.parts {
        match part {
            Part::Text { text } => clean(text),
            Part::Reasoning { text, signature } => {
                clean(text);
                signature.iter_mut().for_each(clean);
            }
            Part::Image { media_type, base64 } => {
                clean(media_type);
                clean(base64);
            }
            Part::ToolCall(ToolCall { id, name, arguments }) => {
                clean(id);
                clean(name);
                clean(arguments);
            }
            Part::ToolResult { call_id, name, content, .. } => {
                clean(call_id);
                clean(name);
                clean(content);
            }
        }
    }
    message
}

/// The messages of earlier turns that a model reads: the newest ones within the limits, starting at a user
/// message.
#[derive(Debug, Default)]
pub(crate) struct History {
    newest_first: Vec<Message>,
    bytes: usize,
    /// Set if the newest turn alone exceeds the limits. Then only its question and its final answer are kept,
    /// and the messages between them are skipped.
    wants_question: bool,
}

impl History {
    pub(crate) const MESSAGES: usize = 1000;
    /// Maximum bytes: about a million tokens, held in memory while the turn runs.
    pub(crate) const BYTES: usize = 4 << 20;

    /// Adds the message before those added so far. Returns false once no older message is wanted.
    pub(crate) fn push(&mut self, message: Message) -> bool {
        let is_user = message.role == Role::User;
        if self.wants_question {
            if is_user {
                self.newest_first.push(message);
            }
            return !is_user;
        }
        self.bytes += message.bytes();
        if self.newest_first.len() < Self::MESSAGES && self.bytes <= Self::BYTES {
            self.newest_first.push(message);
            return true;
        }
        if self.newest_first.iter().any(|message| message.role == Role::User) {
            return false;
        }
        let is_final =
            |message: &Message| message.role == Role::Assistant && message.tool_calls().next().is_none();
        let answer = self.newest_first.iter().take_while(|message| is_final(message)).count();
        self.newest_first.truncate(answer);
        self.wants_question = true;
        if is_user {
            self.newest_first.push(message);
        }
        !is_user
    }

    /// Returns the messages, oldest first. The first is a user message, because providers refuse an answer
    /// without its question and a result without its call.
    pub(crate) fn finish(self) -> Vec<Message> {
        let answers = self.newest_first.iter().rev().take_while(|message| message.role != Role::User).count();
        self.newest_first.into_iter().rev().skip(answers).collect()
    }
}

/// Result that a model reads for a call that was never sent, because its turn ended first.
pub(crate) const NOT_CARRIED_OUT: &str = "not carried out: the turn ended first";

/// Adds the result [`NOT_CARRIED_OUT`] for every tool call that has none, in the place where the result
/// belongs. A canceled or failed turn may leave such calls, and providers refuse a history that has them.
pub(crate) fn with_all_results(history: Vec<Message>) -> Vec<Message> {
    let mut whole: Vec<Message> = Vec::with_capacity(history.len());
    let mut open: Vec<ToolCall> = Vec::new();
    let settle = |open: &mut Vec<ToolCall>, whole: &mut Vec<Message>| {
        if open.is_empty() {
            return;
        }
        let missing = open.drain(..).map(|call| Part::ToolResult {
            call_id: call.id,
            name: call.name,
            content: NOT_CARRIED_OUT.to_owned(),
            is_error: true,
        });
        match whole.last_mut() {
            Some(last) if last.role == Role::Tool => last.parts.extend(missing),
            _ => whole.push(Message { role: Role::Tool, parts: missing.collect() }),
        }
    };
    for message in history {
        if message.role == Role::Tool {
            open.retain(|call| {
                !message
                    .parts
                    .iter()
                    .any(|part| matches!(part, Part::ToolResult { call_id, .. } if *call_id == call.id))
            });
        } else {
            settle(&mut open, &mut whole);
            open.extend(message.tool_calls().cloned());
        }
        whole.push(message);
    }
    settle(&mut open, &mut whole);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str) -> Part {
        Part::ToolCall(ToolCall { id: id.into(), name: "shell".into(), arguments: "{}".into() })
    }

    fn result(id: &str) -> Part {
        Part::ToolResult { call_id: id.into(), name: "shell".into(), content: "ok".into(), is_error: false }
    }

    fn assistant(parts: Vec<Part>) -> Message {
        Message { role: Role::Assistant, parts }
    }

    fn tool(parts: Vec<Part>) -> Message {
        Message { role: Role::Tool, parts }
    }

    fn open_calls(history: &[Message]) -> usize {
        let calls: usize = history.iter().map(|m| m.tool_calls().count()).sum();
        let results =
            history.iter().flat_map(|m| &m.parts).filter(|p| matches!(p, Part::ToolResult { .. })).count();
        calls - results
    }

    #[test]
    fn a_call_without_a_result_gets_one_before_the_next_input() {
        let history = vec![
            Message::user("go"),
            assistant(vec![call("a"), call("b")]),
            tool(vec![result("a")]),
            Message::user("and now?"),
        ];
        let whole = with_all_results(history);
        assert_eq!(open_calls(&whole), 0);
        assert_eq!(whole[2].parts.len(), 2, "the missing result joins the existing one");
        assert_eq!(whole[3].role, Role::User);
    }

    #[test]
    fn a_call_in_the_last_message_gets_a_result() {
        let whole = with_all_results(vec![Message::user("go"), assistant(vec![call("a")])]);
        assert_eq!(open_calls(&whole), 0);
        assert_eq!(whole.last().unwrap().role, Role::Tool);
    }

    #[test]
    fn a_history_has_limits_and_begins_with_a_user_message() {
        let mut history = History::default();
        let turn =
            [Message::user("do it"), assistant(vec![call("a")]), tool(vec![result("a")]), assistant(vec![])];
        let newest_first: Vec<_> =
            std::iter::repeat_n(turn.iter().rev().cloned(), 251).flatten().skip(1).collect();
        let room = newest_first.into_iter().take_while(|message| history.push(message.clone())).count();
        assert_eq!(room, History::MESSAGES);
        let whole = history.finish();
        // The oldest message within the limit is an answer, so its turn is dropped.
        assert_eq!((whole.len(), whole[0].role), (999, Role::User));

        let mut history = History::default();
        let large = "x".repeat(History::BYTES / 2);
        assert!(history.push(Message::user("latest")));
        assert!(history.push(Message::user(&large)));
        assert!(!history.push(Message::user(&large)));
        assert_eq!(history.finish().len(), 2);
        let mut orphans = History::default();
        assert!(orphans.push(tool(vec![result("a")])));
        assert!(orphans.finish().is_empty());
    }

    #[test]
    fn a_turn_over_the_limit_keeps_its_question_and_answer() {
        let mut history = History::default();
        let huge = assistant(vec![call("a"), Part::Text { text: "x".repeat(History::BYTES) }]);
        let turns = [
            Message::user("before"),
            Message::user("what?"),
            huge,
            tool(vec![result("a")]),
            Message::assistant("that"),
        ];
        let taken = turns.iter().rev().take_while(|message| history.push((*message).clone())).count();
        assert_eq!(taken, 3, "nothing is wanted from before its question");
        assert_eq!(history.finish(), [Message::user("what?"), Message::assistant("that")]);
    }

    #[test]
    fn a_complete_history_is_unchanged() {
        let history = vec![
            Message::user("go"),
            assistant(vec![call("a")]),
            tool(vec![result("a")]),
            Message::assistant("done"),
        ];
        assert_eq!(with_all_results(history.clone()), history);
    }

    #[test]
    fn a_stored_message_has_no_nul() {
        let message = storable(assistant(vec![Part::Text { text: "a\0b".into() }, call("a")]));
        assert_eq!(message.text(), "a\u{fffd}b");
    }

    #[test]
    fn parts_keep_their_stored_form() {
        let parts = vec![Part::Text { text: "hi".into() }, call("a"), result("a")];
        let stored = serde_json::to_value(&parts).unwrap();
        assert_eq!(stored[1]["type"], "tool_call");
        assert_eq!(stored[1]["name"], "shell");
        assert_eq!(serde_json::from_value::<Vec<Part>>(stored).unwrap(), parts);
    }
}
