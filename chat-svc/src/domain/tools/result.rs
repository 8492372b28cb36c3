//! What a model reads as the result of a call: bounded text that says what is missing from it.

use std::{fmt::Write as _, time::Duration};

use super::BadCall;

/// Longest result, bytes. About 12,000 tokens: enough to work with, not enough to fill a context.
pub const MAX_RESULT_BYTES: usize = 48 * 1024;

/// Room for what stands around the bounded output: exit codes, markers, headings.
const FRAME_BYTES: usize = 512;

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A command ran.
    Exec(ExecResult),
    /// A file was read.
    Read {
        /// Its bytes.
        content: Vec<u8>,
    },
    /// A file was written.
    Wrote {
        /// Where.
        path: String,
        /// How much.
        bytes: usize,
    },
    /// A directory was listed.
    Listed {
        /// Its entries, by name.
        entries: Vec<Entry>,
        /// Whether there were more.
        truncated: bool,
    },
    /// The call was refused before it was made.
    Refused(BadCall),
    /// It failed; the text is fit for the model and the user.
    Failed {
        /// Why.
        message: String,
    },
    /// It may or may not have run: whoever ran it was lost, and nobody can say.
    InDoubt,
}

/// What a command left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code; 128 + signal if killed.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether there was more of either than was kept.
    pub truncated: bool,
    /// The limit at which it was killed, if it was.
    pub timed_out: Option<Duration>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: EntryKind,
    /// Its size.
    pub bytes: u64,
}

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// A result as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, at most [`MAX_RESULT_BYTES`].
    pub content: String,
    /// Whether the call failed, or may have.
    pub is_error: bool,
    /// Whether it may or may not have run.
    pub in_doubt: bool,
}

impl Outcome {
    /// The text for the model.
    #[must_use]
    pub fn render(&self) -> Rendered {
        let (content, is_error) = match self {
            Self::Exec(result) => (exec(result), result.exit_code != 0 || result.timed_out.is_some()),
            Self::Read { content } => match std::str::from_utf8(content) {
                Ok("") => ("(the file is empty)".to_owned(), false),
                Ok(text) => (bounded(text, MAX_RESULT_BYTES - FRAME_BYTES), false),
                Err(_) => (format!("The file is not text: {} bytes that are not UTF-8.", content.len()), true),
            },
            Self::Wrote { path, bytes } => (format!("Wrote {bytes} bytes to {path}."), false),
            Self::Listed { entries, truncated } => (listing(entries, *truncated), false),
            Self::Refused(bad) => (bad.to_string(), true),
            Self::Failed { message } => (bounded(message, MAX_RESULT_BYTES - FRAME_BYTES), true),
            Self::InDoubt => (
                "This call may or may not have run: the connection to the sandbox was lost while it was being \
                 made, and it was not made again. Look at the state it would have changed before you repeat it."
                    .to_owned(),
                true,
            ),
        };
        Rendered { content, is_error, in_doubt: matches!(self, Self::InDoubt) }
    }
}

fn exec(result: &ExecResult) -> String {
    // What one stream does not need, the other may have.
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

/// Keeps the beginning and the end of a text that is too long: errors stand at the end of an output, what they
/// are about at the beginning.
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
