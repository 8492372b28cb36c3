//! A keyed call: a command or a file to write, journaled before it is sent. Once a call with the key may have
//! run, the key cannot be used for a different call.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use svc_core::{data::idempotency, error::Invalid, id::SandboxId};

use super::sandbox::Owner;

/// Maximum bytes of standard input, of a file, and of each stored output stream, because a call and its
/// outcome must fit into one message and one row.
pub const CONTENT_BYTES: usize = 1 << 20;
/// Maximum bytes of all arguments, because Linux limits a program's arguments and environment together.
const ARGV_BYTES: usize = 128 << 10;
/// Maximum bytes of all additional environment variables; see [`ARGV_BYTES`].
const ENV_BYTES: usize = 128 << 10;
/// Timeout of a command that sets none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Prefix of keys derived from an `idempotency-key`.
const REQUEST_PREFIX: &str = "idempotency-key:";

/// State of a keyed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecState {
    /// Journaled; it may be on its way to the guest, or running.
    Running,
    /// It ended, and its outcome is journaled.
    Finished,
    /// It never ran and never will.
    Abandoned,
    /// It may or may not have run, and the only guest that knew is gone.
    InDoubt,
}

/// Names a call within its sandbox, for the sandbox's whole life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Returns the caller's key; an empty text gives a new key.
    pub fn given_or_new(text: String) -> Self {
        if text.is_empty() { Self(svc_core::id::new_id().to_string()) } else { Self(text) }
    }

    /// Derives a key from a request's `idempotency-key`: the same for the same method and key.
    pub fn of_request(method: &str, key: &idempotency::Key) -> Self {
        let hash = Sha256::digest(format!("{method}\0{key}"));
        let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("{REQUEST_PREFIX}{hex}"))
    }

    /// Whether the key was derived from an `idempotency-key`.
    pub fn is_of_request(&self) -> bool {
        self.0.starts_with(REQUEST_PREFIX)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A call to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Command(Command),
    Write(Write),
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub argv: Vec<String>,
    pub stdin: Bytes,
    /// Working directory; empty means the workspace.
    pub cwd: String,
    /// Environment variables beside the container's.
    pub env: BTreeMap<String, String>,
    /// The guest kills the command after this time.
    pub timeout: Duration,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub path: String,
    pub content: Bytes,
    /// Permission bits; 0 means the guest's default.
    pub mode: u32,
}

impl Command {
    /// Checks what the contract's field rules do not cover, so that no call is journaled that the guest would
    /// refuse.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        let length = |texts: &[String]| texts.iter().map(|text| text.len() + 1).sum::<usize>();
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Invalid::new("argv", "must name a program"));
        }
        if length(&self.argv) > ARGV_BYTES {
            return Err(Invalid::new("argv", "must have at most 128 KiB"));
        }
        if self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() > ENV_BYTES {
            return Err(Invalid::new("env", "must have at most 128 KiB"));
        }
        Ok(())
    }
}

impl Call {
    /// Returns the SHA-256 of every part that decides what the call does. While the journal has a key, only a
    /// call with the same hash may use it.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Each part follows its length, so that no two calls give the same bytes.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Command(command) => {
                part(b"command");
                part(&(command.argv.len() as u64).to_be_bytes());
                command.argv.iter().for_each(|argument| part(argument.as_bytes()));
                part(&command.stdin);
                part(command.cwd.as_bytes());
                for (name, value) in &command.env {
                    part(name.as_bytes());
                    part(value.as_bytes());
                }
                part(&command.timeout.as_millis().to_be_bytes());
            }
            Self::Write(write) => {
                part(b"write");
                part(write.path.as_bytes());
                part(&write.content);
                part(&write.mode.to_be_bytes());
            }
        }
        hash.finalize().into()
    }
}

/// Names a call in the journal.
#[derive(Debug, Clone, Copy)]
pub struct CallId<'a> {
    pub owner: Owner,
    pub sandbox: SandboxId,
    pub key: &'a str,
}

/// The record of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: String,
    pub state: ExecState,
    /// Set if the call finished.
    pub outcome: Option<Outcome>,
}

/// The outcome of a finished call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// 128 + signal if the command was killed.
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Whether standard output was longer than what is kept.
    pub stdout_truncated: bool,
    /// Whether standard error was longer than what is kept.
    pub stderr_truncated: bool,
    /// Whether the guest killed it at its timeout.
    pub timed_out: bool,
    pub duration: Duration,
}

/// The journal's entry of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// SHA-256 of the call; `None` if the key was abandoned before any call used it.
    pub hash: Option<[u8; 32]>,
    pub record: Record,
}

/// How a caller wants a key resolved.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResolveOptions {
    /// Longest wait for the end of a running call.
    pub wait: Duration,
    /// Whether to kill a running command first.
    pub cancel: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            stdin: Bytes::new(),
            cwd: String::new(),
            env: BTreeMap::new(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    #[test]
    fn derived_keys_differ_by_method_and_request_key() {
        assert_eq!(Key::given_or_new(String::new()).as_str().len(), 36);
        let of = |method, key: &str| Key::of_request(method, &key.parse().unwrap());
        assert_eq!(of("Exec", "a?b"), of("Exec", "a?b"));
        assert_ne!(of("Exec", "a?b"), of("WriteFile", "a?b"));
        assert_ne!(of("Exec", "a?b"), of("Exec", "a?c"));
        let key = of("Exec", &"~".repeat(255));
        assert!(key.as_str().len() <= 128, "{}", key.as_str());
    }

    #[test]
    fn calls_that_differ_have_different_hashes() {
        let a = command(&["ab", "c"]);
        let calls = [
            Call::Command(a.clone()),
            Call::Command(command(&["a", "bc"])),
            Call::Command(Command { stdin: "x".into(), ..a.clone() }),
            Call::Command(Command { cwd: "x".into(), ..a.clone() }),
            Call::Command(Command { env: [("x".into(), String::new())].into(), ..a.clone() }),
            Call::Command(Command { timeout: Duration::from_secs(1), ..a.clone() }),
            Call::Write(Write { path: "ab".into(), content: "c".into(), mode: 0 }),
            Call::Write(Write { path: "ab".into(), content: "c".into(), mode: 1 }),
        ];
        let hashes: std::collections::BTreeSet<_> = calls.iter().map(Call::hash).collect();
        assert_eq!(hashes.len(), calls.len());
        assert_eq!(Call::Command(a).hash(), calls[0].hash());
    }

    #[test]
    fn calls_that_the_guest_would_refuse_are_refused() {
        let env = [("A".to_owned(), "a".repeat(ENV_BYTES))].into();
        for (field, bad) in [
            ("argv", command(&[])),
            ("argv", command(&[""])),
            ("argv", command(&[&"a".repeat(ARGV_BYTES)])),
            ("env", Command { env, ..command(&["a"]) }),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
        command(&["a"]).check().unwrap();
    }
}
