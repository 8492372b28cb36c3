//! The demo model's answer to a conversation, computed before its first word is sent.

use std::time::Duration;

use serde_json::json;

use crate::model::model_client::{
    Detail, FinishReason, Message, ModelError, ModelEvent, ModelRequest, Part, Pulse, Role, ToolCall, Usage,
};

/// Largest number it counts to.
const COUNT_MAX: u64 = 100_000;
/// Longest pause between two numbers.
const PACE_MAX: Duration = Duration::from_secs(60);

/// Everything that one call yields, in order.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// The call is refused before it streams.
    pub(super) refusal: Option<Failure>,
    pub(super) items: Vec<Item>,
}

/// One action of the stream.
#[derive(Debug)]
pub(super) enum Item {
    Say(ModelEvent),
    Wait(Duration),
    Stall,
    Fail(Failure),
}

/// A way to fail on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Cut,
    Stall,
    Malformed,
    Error,
    Busy,
    Limit,
    Reject,
    Invalid,
    Empty,
}

impl Failure {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "cut" => Self::Cut,
            "stall" => Self::Stall,
            "malformed" => Self::Malformed,
            "error" => Self::Error,
            "busy" => Self::Busy,
            "limit" => Self::Limit,
            "reject" => Self::Reject,
            "invalid" => Self::Invalid,
            "empty" => Self::Empty,
            _ => return None,
        })
    }

    /// Whether the failure comes before the stream begins.
    const fn is_refusal(self) -> bool {
        matches!(self, Self::Busy | Self::Limit | Self::Reject | Self::Invalid)
    }

    pub(super) fn error(self) -> ModelError {
        let detail = Detail::new("the demo model was asked to fail");
        match self {
            Self::Cut => ModelError::Cut { source: None },
            Self::Stall => ModelError::Stalled { idle: Duration::ZERO },
            Self::Malformed => ModelError::Malformed { problem: detail.to_string() },
            Self::Error => ModelError::InBand { code: "demo_error".into(), detail },
            Self::Busy => ModelError::Server { status: 503, retry_after: None, detail },
            Self::Limit => ModelError::RateLimited { retry_after: Some(Duration::from_secs(1)), detail },
            Self::Reject => ModelError::Rejected { status: 403, detail },
            Self::Invalid => ModelError::InvalidRequest { status: 400, detail },
            Self::Empty => ModelError::Empty { finish: FinishReason::EndTurn },
        }
    }
}

impl Script {
    pub(super) fn of(request: &ModelRequest) -> Self {
        let conversation = Conversation::of(request);
        let mut script = Writer::new(request);
        match conversation.answer() {
            Answer::Text(text) => script.text(&text),
            Answer::Thought { thought, text } => {
                script.reasoning(&thought);
                script.text(&text);
            }
            Answer::Count { to, pace } => script.count(to, pace),
            Answer::Calls(calls) => script.calls(calls, conversation.rounds),
            Answer::Fail { way, words } => return script.fail(way, words),
        }
        script.end()
    }
}

/// A conversation as the demo model reads it.
struct Conversation<'a> {
    /// Earlier inputs, oldest first.
    earlier: Vec<String>,
    input: String,
    /// Tool results since the newest input.
    results: Vec<&'a Part>,
    /// Rounds of tool calls since the newest input.
    rounds: usize,
    request: &'a ModelRequest,
}

enum Answer {
    Text(String),
    Thought { thought: String, text: String },
    Count { to: u64, pace: Duration },
    Calls(Vec<Call>),
    Fail { way: Failure, words: usize },
}

struct Call {
    tool: &'static str,
    arguments: serde_json::Value,
}

impl<'a> Conversation<'a> {
    fn of(request: &'a ModelRequest) -> Self {
        let messages = &request.messages;
        let newest = messages.iter().rposition(|message| message.role == Role::User);
        let (before, after) =
            newest.map_or((&messages[..], &[][..]), |at| (&messages[..at], &messages[at + 1..]));
        let rounds = after.iter().filter(|message| message.role == Role::Tool).count();
        let results = after.iter().filter(|message| message.role == Role::Tool).flat_map(|m| &m.parts);
        Self {
            earlier: before.iter().filter(|m| m.role == Role::User).map(Message::text).collect(),
            input: newest.map(|at| messages[at].text().trim().to_owned()).unwrap_or_default(),
            results: results.collect(),
            rounds,
            request,
        }
    }

    fn answer(&self) -> Answer {
        let mut steps = tool_steps(&self.input);
        if self.rounds < steps.len() {
            let calls = steps.swap_remove(self.rounds);
            let missing = calls.iter().find(|call| !self.request.tools.iter().any(|t| t.name == call.tool));
            return match missing {
                Some(call) => {
                    Answer::Text(format!("I have no tool named {} here, so I cannot do that.", call.tool))
                }
                None => Answer::Calls(calls),
            };
        }
        if !self.results.is_empty() {
            return Answer::Text(self.report());
        }
        let (verb, rest) = split_verb(&self.input);
        match verb.as_str() {
            "say" if !rest.is_empty() => Answer::Text(rest.to_owned()),
            "remember" if !rest.is_empty() => Answer::Text(format!("I will remember: {rest}")),
            "think" => think(rest),
            "count" => count(rest).unwrap_or_else(|| self.fallback()),
            "fail" => fail(rest),
            "what" if asks_for_history(&self.input) => Answer::Text(self.history()),
            _ => self.fallback(),
        }
    }

    fn report(&self) -> String {
        let mut text = String::new();
        for part in &self.results {
            if let Part::ToolResult { name, content, is_error, .. } = part {
                let heading = if *is_error { "failed" } else { "returned" };
                text.push_str(&format!("{name} {heading}:\n\n{}\n\n", content.trim_end()));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn history(&self) -> String {
        if self.earlier.is_empty() {
            return "This is the first thing you say to me.".to_owned();
        }
        let lines: Vec<_> = self
            .earlier
            .iter()
            .enumerate()
            .map(|(n, input)| format!("{}. {}", n + 1, input.trim()))
            .collect();
        format!("You said before:\n{}", lines.join("\n"))
    }

    fn fallback(&self) -> Answer {
        let said = if self.input.is_empty() { "nothing".to_owned() } else { format!("\"{}\"", self.input) };
        Answer::Text(format!(
            "You said {said}. I am Steward's demo model: no key, no network, always the same answer. Try \
             \"run uname -a\", \"write note.txt hello\", \"read note.txt\", \"list\", \
             \"count to 10 slowly\", \"think about rain\" or \"what did I say?\"."
        ))
    }
}

/// Returns the tool calls that an input asks for: one item per step, with the calls of one message. Empty if
/// any part of the input is no tool call.
fn tool_steps(input: &str) -> Vec<Vec<Call>> {
    let calls = |step: &str| step.lines().map(tool_call).collect::<Option<Vec<_>>>();
    // A "then" without a call after it is part of the command: "run if true; then echo yes; fi".
    let mut steps: Vec<String> = Vec::new();
    for part in input.split(" then ") {
        match steps.last_mut() {
            Some(last) if calls(part).is_none() => {
                last.push_str(" then ");
                last.push_str(part);
            }
            _ => steps.push(part.to_owned()),
        }
    }
    steps.iter().map(|step| calls(step)).collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn tool_call(line: &str) -> Option<Call> {
    let (verb, rest) = split_verb(line);
    let (tool, arguments) = match verb.as_str() {
        "run" if !rest.is_empty() => ("shell", json!({ "command": rest })),
        "read" if is_one_word(rest) => ("read_file", json!({ "path": rest })),
        "list" if rest.is_empty() => ("list_files", json!({})),
        "list" if is_one_word(rest) => ("list_files", json!({ "path": rest })),
        "write" => {
            let (path, content) = rest.split_once(char::is_whitespace)?;
            ("write_file", json!({ "path": path, "content": content }))
        }
        _ => return None,
    };
    Some(Call { tool, arguments })
}

fn think(rest: &str) -> Answer {
    let topic = rest.strip_prefix("about ").unwrap_or(rest).trim();
    let topic = if topic.is_empty() { "nothing in particular" } else { topic };
    Answer::Thought {
        thought: format!(
            "I am asked about {topic}. I have no opinion of my own, so I look at it from all sides."
        ),
        text: format!("I have thought about {topic}."),
    }
}

/// Parses `to <n> [slowly | every <k>ms]`.
fn count(rest: &str) -> Option<Answer> {
    let mut words = rest.split_whitespace();
    let to = match words.next()? {
        "to" => words.next()?,
        number => number,
    };
    let to = to.parse::<u64>().ok()?.min(COUNT_MAX);
    let pace = match (words.next(), words.next()) {
        (None, None) => Duration::ZERO,
        (Some("slowly"), None) => Duration::from_secs(1),
        (Some("every"), Some(pace)) => {
            let (digits, unit) = pace.split_at(pace.bytes().take_while(u8::is_ascii_digit).count());
            let n = digits.parse().ok()?;
            match unit {
                "ms" => Duration::from_millis(n),
                "s" => Duration::from_secs(n),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Answer::Count { to, pace: pace.min(PACE_MAX) })
}

/// Parses `[<way>] [after <n> words]`.
fn fail(rest: &str) -> Answer {
    let words: Vec<_> = rest.split_whitespace().collect();
    let way = words.first().and_then(|name| Failure::named(name)).unwrap_or(Failure::Error);
    let after = words.iter().position(|word| *word == "after");
    let words = after.and_then(|at| words.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    Answer::Fail { way, words }
}

fn asks_for_history(input: &str) -> bool {
    let input = input.to_lowercase();
    ["what did i say", "what did i ask", "what have i said", "what do you remember"]
        .iter()
        .any(|question| input.starts_with(question))
}

fn split_verb(line: &str) -> (String, &str) {
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (verb.to_lowercase(), rest.trim())
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

/// Collects the items and counts the tokens.
struct Writer {
    items: Vec<Item>,
    /// Text that the answer continues.
    prefill: String,
    /// Maximum words; `None` is unlimited.
    room: Option<usize>,
    input_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    finish: FinishReason,
}

impl Writer {
    fn new(request: &ModelRequest) -> Self {
        let prefill = request.messages.last().filter(|m| m.role == Role::Assistant).map(Message::text);
        let system = request.system.as_deref().unwrap_or_default();
        let input: usize = words(system).count()
            + request.messages.iter().flat_map(|m| &m.parts).map(part_words).sum::<usize>();
        Self {
            items: vec![Item::Say(ModelEvent::Pulse(Pulse::Event))],
            prefill: prefill.unwrap_or_default(),
            room: request.max_output_tokens.map(|most| most as usize),
            input_tokens: input as u64,
            output_tokens: 0,
            reasoning_tokens: 0,
            finish: FinishReason::EndTurn,
        }
    }

    fn text(&mut self, text: &str) {
        let rest = match text.strip_prefix(self.prefill.as_str()) {
            Some("") | None => format!("\n\n{text}"),
            Some(rest) => rest.to_owned(),
        };
        for word in words(&rest) {
            if self.spend() {
                self.items.push(Item::Say(ModelEvent::TextDelta(word.to_owned())));
            }
        }
    }

    fn reasoning(&mut self, text: &str) {
        for word in words(text) {
            if self.spend() {
                self.reasoning_tokens += 1;
                self.items.push(Item::Say(ModelEvent::ReasoningDelta(word.to_owned())));
            }
        }
    }

    fn count(&mut self, to: u64, pace: Duration) {
        // A prefill contains the numbers that were sent before.
        let from = words(&self.prefill).filter_map(|word| word.trim().parse::<u64>().ok()).max().unwrap_or(0);
        for number in from + 1..=to {
            if !self.spend() {
                break;
            }
            if number > 1 {
                self.items.push(Item::Wait(pace));
            }
            let space =
                if number == 1 || (number == from + 1 && self.prefill.ends_with(' ')) { "" } else { " " };
            self.items.push(Item::Say(ModelEvent::TextDelta(format!("{space}{number}"))));
        }
        if from >= to {
            self.text("That is as far as I was to count.");
        }
    }

    fn calls(&mut self, calls: Vec<Call>, round: usize) {
        self.finish = FinishReason::ToolUse;
        for (index, Call { tool, arguments }) in calls.into_iter().enumerate() {
            let arguments = arguments.to_string();
            self.output_tokens += words(&arguments).count() as u64 + 1;
            self.items.push(Item::Say(ModelEvent::ToolCallDelta { bytes: arguments.len() }));
            // The id is unique within the turn, and the same if the model call is repeated.
            let id = format!("demo_{}_{}", round + 1, index + 1);
            self.items.push(Item::Say(ModelEvent::ToolCall(ToolCall {
                id,
                name: tool.to_owned(),
                arguments,
            })));
        }
    }

    fn fail(mut self, way: Failure, words: usize) -> Script {
        if way.is_refusal() && words == 0 {
            return Script { refusal: Some(way), items: Vec::new() };
        }
        let text: Vec<_> = (1..=words).map(|n| format!("word{n}")).collect();
        if words > 0 {
            self.text(&text.join(" "));
        }
        self.items.push(match way {
            Failure::Stall => Item::Stall,
            other => Item::Fail(other),
        });
        Script { refusal: None, items: self.items }
    }

    fn end(mut self) -> Script {
        let usage = Usage {
            input_tokens: Some(self.input_tokens),
            output_tokens: Some(self.output_tokens),
            cache_read_tokens: Some(0),
            cache_write_tokens: Some(0),
            reasoning_tokens: Some(self.reasoning_tokens),
        };
        self.items.push(Item::Say(ModelEvent::Finish(self.finish)));
        self.items.push(Item::Say(ModelEvent::Usage(usage)));
        Script { refusal: None, items: self.items }
    }

    /// Counts one word. Returns false if the limit forbids it.
    fn spend(&mut self) -> bool {
        if self.room.is_some_and(|room| self.output_tokens >= room as u64) {
            self.finish = FinishReason::MaxTokens;
            return false;
        }
        self.output_tokens += 1;
        true
    }
}

/// Words, each with the whitespace after it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(char::is_whitespace)
}

fn part_words(part: &Part) -> usize {
    match part {
        Part::Text { text } | Part::Reasoning { text, .. } => words(text).count(),
        Part::ToolCall(call) => words(&call.arguments).count(),
        Part::ToolResult { content, .. } => words(content).count(),
        Part::Image { .. } => 1,
    }
}
