//! Renders the results of tool calls as text for the model. Limits its size, and marks where output was cut.

use std::{fmt::Write as _, time::Duration};

use super::BadCall;

/// Maximum bytes of a result: about 12,000 tokens, a fraction of a model's context.
pub(crate) const MAX_RESULT_BYTES: usize = 48 * 1024;

/// Bytes kept free for exit codes, markers and headings around the output.
const FRAME_BYTES: usize = 512;

/// Result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exec(ExecResult),
    /// A file was read.
    Read {
        content: Vec<u8>,
    },
    /// A file was written.
    Wrote {
        path: String,
        bytes: usize,
    },
    /// A directory was listed; `truncated` if it has more entries.
    Listed {
        entries: Vec<Entry>,
        truncated: bool,
    },
    /// The call was refused before it was sent.
    Refused(BadCall),
    /// The call failed; the model and the user may read the text.
    Failed {
        message: String,
    },
    /// The call may or may not have run, and no service can tell.
    InDoubt,
}

/// Result of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExecResult {
    /// 128 + signal if the command was killed.
    pub exit_code: i32,
    pub stdout: String,
    pub stderr: String,
    /// Whether the guest kept only a part of either stream.
    pub truncated: bool,
    /// The timeout at which the guest killed the command, if it did.
    pub timed_out: Option<Duration>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub kind: EntryKind,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// A result as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub content: String,
    /// Whether the call failed, or may have failed.
    pub is_error: bool,
    /// Whether the call may or may not have run.
    pub in_doubt: bool,
}

impl Outcome {
    /// Renders the text for the model.
    pub(crate) fn render(&self) -> Rendered {
        let (content, is_error) = match self {
            Self::Exec(result) => (exec(result), result.exit_code != 0 || result.timed_out.is_some()),
            Self::Read { content } => match std::str::from_utf8(content) {
                Ok("") => ("(the file is empty)".to_owned(), false),
                Ok(text) => (bounded(text, MAX_RESULT_BYTES - FRAME_BYTES), false),
                Err(_) => {
                    (format!("The file is not text: {} bytes that are not UTF-8.", content.len()), true)
                }
            },
            Self::Wrote { path, bytes } => (format!("Wrote {bytes} bytes to {path}."), false),
            Self::Listed { entries, truncated } => (listing(entries, *truncated), false),
            Self::Refused(bad) => (bad.to_string(), true),
            Self::Failed { message } => (bounded(message, MAX_RESULT_BYTES - FRAME_BYTES), true),
            Self::InDoubt => (
                "This call may or may not have run: the connection to the sandbox was lost while it was \
                 being made, and it was not made again. Look at the state it would have changed before you \
                 repeat it."
                    .to_owned(),
                true,
            ),
        };
        Rendered { content, is_error, in_doubt: matches!(self, Self::InDoubt) }
    }
}

fn exec(result: &ExecResult) -> String {
    // Each stream gets half of the space, and in addition what the other stream leaves of its half.
    let room = MAX_RESULT_BYTES - FRAME_BYTES;
    let half = room / 2;
    let stderr_room = half.max(room.saturating_sub(result.stdout.len()));
    let stdout_room = half.max(room.saturating_sub(result.stderr.len()));
    let mut text = match result.timed_out {
        Some(limit) => format!("timed out after {} s and was killed\n", limit.as_secs()),
        None => format!("exit code: {}\n", result.exit_code),
    };
    for (name, output, room) in
        [("stdout", &result.stdout, stdout_room), ("stderr", &result.stderr, stderr_room)]
    {
        if !output.is_empty() {
            let output = bounded(output, room);
            let newline = if output.ends_with('\n') { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ok = write!(text, "{name}:\n{output}{newline}");
        }
    }
    if result.stdout.is_empty() && result.stderr.is_empty() {
        text.push_str("(no output)\n");
    }
    if result.truncated {
        text.push_str("(the command wrote more than was kept)\n");
    }
    text
}

fn listing(entries: &[Entry], truncated: bool) -> String {
    if entries.is_empty() {
        return "(the directory is empty)".to_owned();
    }
    let mut text = String::new();
    for (shown, entry) in entries.iter().enumerate() {
        let line = match entry.kind {
            EntryKind::Directory => format!("{}/\n", entry.name),
            EntryKind::Symlink => format!("{} (symbolic link)\n", entry.name),
            EntryKind::Other => format!("{} (special file)\n", entry.name),
            EntryKind::File => format!("{} ({} bytes)\n", entry.name, entry.bytes),
        };
        if text.len() + line.len() > MAX_RESULT_BYTES - FRAME_BYTES {
            let _ok = writeln!(text, "[… {} entries left out …]", entries.len() - shown);
            break;
        }
        text.push_str(&line);
    }
    if truncated {
        text.push_str("(the directory has more entries)\n");
    }
    text
}

/// Keeps the beginning and the end of a text that is too long: errors are at the end of an output, their
/// context at the beginning.
fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let half = most / 2;
    let head_end = text.floor_char_boundary(half);
    let tail_start = text.ceil_char_boundary(text.len() - half);
    let left_out = tail_start - head_end;
    format!("{}\n[… {left_out} bytes left out …]\n{}", &text[..head_end], &text[tail_start..])
}
