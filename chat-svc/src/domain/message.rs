//! Messages: what a session remembers of its turns, part by part.
//!
//! The serde form of [`Part`] is the stored form and what clients read: changing it means migrating rows.

use serde::{Deserialize, Serialize};

use super::step::ToolCall;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// Tools, with the results of the calls in the assistant message before.
    Tool,
}

impl Role {
    /// Every role, in the order in which one step writes them.
    pub const ALL: [Self; 3] = [Self::User, Self::Assistant, Self::Tool];
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What it says.
    pub parts: Vec<Part>,
}

impl Message {
    /// A message of the user with one text.
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, parts: vec![Part::Text { text: text.into() }] }
    }

    /// A message of the model with one text.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, parts: vec![Part::Text { text: text.into() }] }
    }

    /// Bytes of everything it says.
    #[must_use]
    pub fn bytes(&self) -> usize {
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
    #[must_use]
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Part::as_text).collect()
    }

    /// The tool calls in it, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            Part::Text { .. } | Part::Reasoning { .. } | Part::Image { .. } | Part::ToolResult { .. } => None,
        })
    }
}

/// One part of a message. Its JSON form is what the message store keeps and clients read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// What the model thought. Sent back only to a provider that signed it.
    Reasoning {
        /// The text.
        text: String,
        /// The provider's own signature, never made up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    /// An image.
    Image {
        /// As `image/png`.
        media_type: String,
        /// Its bytes in standard base64.
        base64: String,
    },
    /// A tool call of the model.
    ToolCall(ToolCall),
    /// What became of a tool call.
    ToolResult {
        /// Id of the call.
        call_id: String,
        /// Name of the tool.
        name: String,
        /// What the model reads.
        content: String,
        /// Whether the tool failed, or may have.
        is_error: bool,
    },
}

impl Part {
    /// The text of a text part.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Reasoning { .. } | Self::Image { .. } | Self::ToolCall(_) | Self::ToolResult { .. } => None,
        }
    }
}

/// The message as Postgres can keep it: its text has no NUL, so each becomes the replacement character.
#[must_use]
pub fn storable(mut message: Message) -> Message {
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

/// What a model is given of earlier turns: the newest messages, as many as there is room for, from a user's on.
#[derive(Debug, Default)]
pub struct History {
    newest_first: Vec<Message>,
    bytes: usize,
    /// There is no more room, and not even the last turn's question is there: it is looked for, to stand alone with
    /// that turn's final answer.
    wants_question: bool,
}

impl History {
    /// Most messages.
    pub const MESSAGES: usize = 1000;
    /// Most bytes: about a million tokens, and what one turn may hold in memory of its past.
    pub const BYTES: usize = 4 << 20;

    /// Takes the message before those it has; false if it wants no older one.
    pub fn push(&mut self, message: Message) -> bool {
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

    /// Oldest first. It begins with what a user said: an answer without its question, or a result without its call,
    /// is refused by providers.
    #[must_use]
    pub fn finish(self) -> Vec<Message> {
        let answers = self.newest_first.iter().rev().take_while(|message| message.role != Role::User).count();
        self.newest_first.into_iter().rev().skip(answers).collect()
    }
}

/// What a model reads as the result of a call that its turn never carried out.
pub const NOT_CARRIED_OUT: &str = "not carried out: the turn ended first";

/// Gives every tool call its result, in place: providers refuse a history in which one is missing. A call that
/// its turn never carried out (the turn was canceled, or failed) is answered [`NOT_CARRIED_OUT`].
#[must_use]
pub fn answered(history: Vec<Message>) -> Vec<Message> {
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
    fn a_call_without_a_result_is_answered_before_the_next_input() {
        let history = vec![
            Message::user("go"),
            assistant(vec![call("a"), call("b")]),
            tool(vec![result("a")]),
            Message::user("and now?"),
        ];
        let whole = answered(history);
        assert_eq!(open_calls(&whole), 0);
        assert_eq!(whole[2].parts.len(), 2, "the missing result joins the others");
        assert_eq!(whole[3].role, Role::User);
    }

    #[test]
    fn a_call_at_the_very_end_is_answered_too() {
        let whole = answered(vec![Message::user("go"), assistant(vec![call("a")])]);
        assert_eq!(open_calls(&whole), 0);
        assert_eq!(whole.last().unwrap().role, Role::Tool);
    }

    #[test]
    fn a_history_has_room_for_so_much_and_begins_with_a_user() {
        let mut history = History::default();
        let turn =
            [Message::user("do it"), assistant(vec![call("a")]), tool(vec![result("a")]), assistant(vec![])];
        let newest_first: Vec<_> =
            std::iter::repeat_n(turn.iter().rev().cloned(), 251).flatten().skip(1).collect();
        let room = newest_first.into_iter().take_while(|message| history.push(message.clone())).count();
        assert_eq!(room, History::MESSAGES);
        let whole = history.finish();
        // The oldest one there was room for is an answer: its turn goes with it.
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
    fn a_turn_that_is_too_long_leaves_its_question_and_its_answer() {
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
    fn a_whole_history_stays_as_it_is() {
        let history = vec![
            Message::user("go"),
            assistant(vec![call("a")]),
            tool(vec![result("a")]),
            Message::assistant("done"),
        ];
        assert_eq!(answered(history.clone()), history);
    }

    #[test]
    fn what_is_stored_holds_no_nul() {
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
