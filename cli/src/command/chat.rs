//! `steward chat`: runs one turn and prints its events as they arrive.
//!
//! If the stream breaks, the command opens another one after the last event that it printed. The turn runs in
//! the plane: ending this command does not stop it.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use steward_stack::terminal::{complain, say, show};

use crate::api::{
    Api, Refusal, TOKEN_FILE, Target,
    sse::{Frame, Frames},
};

/// Maximum time in which no stream can be opened; then the command fails.
const RESUME_TIMEOUT: Duration = Duration::from_secs(120);
const RESUME_PAUSE: Duration = Duration::from_millis(500);
/// Maximum characters of a new session's title.
const MAX_TITLE: usize = 80;

/// Talk to an agent: one turn, as it happens.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  steward chat 'run uname -a'\n  steward chat --session 0192… 'and again'"
)]
pub(crate) struct Args {
    /// The message to the agent.
    text: String,
    /// Continue this session instead of starting one.
    #[arg(long)]
    session: Option<String>,
    /// Print the events as they are, one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs one turn and prints it. Fails if the turn fails.
pub(crate) async fn run(home: &Path, args: &Args) -> Result<ExitCode> {
    let api = Api::open(home, &args.target, TOKEN_FILE)?;
    let session = match &args.session {
        Some(session) => session.clone(),
        None => create_session(&api, &args.text).await?,
    };
    let frames =
        api.post_events(&format!("/v1/sessions/{session}/turns:run"), &json!({ "input": args.text })).await?;
    let mut screen = Screen { json: args.json, ..Screen::default() };
    let ending = follow(&api, frames, &mut screen).await?;
    if !args.json {
        let trace = api.get(&format!("/v1/turns/{}", screen.turn)).await?["turn"]["traceId"].clone();
        let trace = trace.as_str().unwrap_or_default();
        say(format_args!("\n— session {session} · turn {} · trace {trace}", screen.turn))?;
    }
    match ending {
        Ending::Completed => Ok(ExitCode::SUCCESS),
        Ending::Otherwise(problem) => bail!(problem),
    }
}

async fn create_session(api: &Api, text: &str) -> Result<String> {
    let title: String = text.chars().take(MAX_TITLE).collect();
    let answer = api.post("/v1/sessions", &json!({ "title": title })).await?;
    Ok(answer["session"]["sessionId"].as_str().context("the answer names no session")?.to_owned())
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Completed,
    Otherwise(String),
}

/// Prints a turn's events until its last one. If a stream breaks, opens another one after the last event
/// printed. Returns how the turn ended.
async fn follow(api: &Api, mut frames: Frames, screen: &mut Screen) -> Result<Ending> {
    let mut broken_since: Option<Instant> = None;
    loop {
        let problem = match read(&mut frames, screen).await {
            Ok(Some(ending)) => return Ok(ending),
            Ok(None) => anyhow::anyhow!("the stream ended before the turn did"),
            Err(error) => error,
        };
        let since = *broken_since.get_or_insert_with(Instant::now);
        if screen.turn.is_empty() || is_final(&problem) || since.elapsed() > RESUME_TIMEOUT {
            return Err(problem);
        }
        complain(format_args!("\n(interrupted: {problem:#}; resuming)"));
        tokio::time::sleep(RESUME_PAUSE).await;
        let path = format!("/v1/turns/{}/events", screen.turn);
        match api.events(&path, &screen.last_event_id).await {
            Ok(resumed) => {
                frames = resumed;
                broken_since = None;
            }
            Err(error) if is_final(&error) => return Err(error),
            // No stream can be opened yet. The next pass finds the old stream ended, and tries again until
            // RESUME_TIMEOUT.
            Err(_) => {}
        }
    }
}

/// Returns whether the plane refused the request for a reason that a retry would not change.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| !refusal.retryable)
}

async fn read(frames: &mut Frames, screen: &mut Screen) -> Result<Option<Ending>> {
    while let Some(frame) = frames.next().await? {
        if let Some(ending) = screen.event(&frame)? {
            return Ok(Some(ending));
        }
    }
    Ok(None)
}

/// State of the output: the turn, the cursor, and whether the last line is unfinished.
#[derive(Debug, Default)]
struct Screen {
    json: bool,
    turn: String,
    last_event_id: String,
    mid_line: bool,
}

impl Screen {
    fn event(&mut self, frame: &Frame) -> Result<Option<Ending>> {
        let data: Value = serde_json::from_str(&frame.data).context("read an event")?;
        if frame.event == "problem" {
            return Err(Refusal::from_problem(&data).into());
        }
        frame.id.clone_into(&mut self.last_event_id);
        if let Some((turn, _)) = frame.id.split_once(':') {
            turn.clone_into(&mut self.turn);
        }
        if self.json {
            say(&frame.data)?;
        } else {
            self.draw(&frame.event, &data)?;
        }
        Ok(ending(&frame.event, &data))
    }

    fn draw(&mut self, kind: &str, data: &Value) -> Result<()> {
        let text = |key: &str| printable(data[key].as_str().unwrap_or_default());
        match kind {
            "text.delta" => {
                show(text("text"))?;
                self.mid_line = !text("text").ends_with('\n');
            }
            "tool.call" => {
                self.line(&format!("→ {} {}", text("name"), printable(&data["arguments"].to_string())))?
            }
            "tool.result" => {
                let mark = match (data["in_doubt"].as_bool(), data["is_error"].as_bool()) {
                    (Some(true), _) => "?",
                    (_, Some(true)) => "✗",
                    _ => "←",
                };
                for line in text("content").lines() {
                    self.line(&format!("{mark} {line}"))?;
                }
            }
            "reset" => self.line(&format!("(starting this step over: {})", text("cause")))?,
            "turn.completed" | "turn.failed" | "turn.canceled" if self.mid_line => self.line("")?,
            _ => {}
        }
        Ok(())
    }

    /// Prints a line of its own; first ends an unfinished line of the answer.
    fn line(&mut self, text: &str) -> Result<()> {
        if std::mem::take(&mut self.mid_line) {
            say("")?;
        }
        if !text.is_empty() {
            say(text)?;
        }
        Ok(())
    }
}

/// Replaces control characters, so that an agent's text cannot send commands to the terminal.
fn printable(text: &str) -> String {
    let shown = |char: char| !char.is_control() || matches!(char, '\n' | '\t');
    text.replace("\r\n", "\n")
        .chars()
        .map(|char| if shown(char) { char } else { char::REPLACEMENT_CHARACTER })
        .collect()
}

fn ending(kind: &str, data: &Value) -> Option<Ending> {
    let text = |key: &str| data[key].as_str().unwrap_or_default();
    match kind {
        "turn.completed" => Some(Ending::Completed),
        "turn.failed" => {
            Some(Ending::Otherwise(format!("the turn failed: {} ({})", text("message"), text("cause"))))
        }
        "turn.canceled" => Some(Ending::Otherwise(format!("the turn was canceled ({})", text("cause")))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, data: &Value) -> Frame {
        Frame { id: "0192:7".to_owned(), event: event.to_owned(), data: data.to_string() }
    }

    #[test]
    fn the_last_event_says_how_the_turn_ended() {
        let mut screen = Screen::default();
        let delta = frame("text.delta", &json!({"type": "text.delta", "step": 1, "text": ""}));
        assert_eq!(screen.event(&delta).unwrap(), None);
        assert_eq!((screen.turn.as_str(), screen.last_event_id.as_str()), ("0192", "0192:7"));
        let failed = frame("turn.failed", &json!({"cause": "DEADLINE", "message": "it took too long"}));
        let Some(Ending::Otherwise(text)) = screen.event(&failed).unwrap() else { panic!("no ending") };
        assert_eq!(text, "the turn failed: it took too long (DEADLINE)");
    }

    #[test]
    fn a_problem_in_the_stream_is_an_error_without_a_cursor() {
        let mut screen = Screen::default();
        let problem = frame("problem", &json!({"status": 503, "code": "UNAVAILABLE", "retryable": true}));
        let error = screen.event(&problem).unwrap_err();
        assert!(error.downcast_ref::<Refusal>().unwrap().retryable);
        assert_eq!(screen.last_event_id, "");
    }
}
