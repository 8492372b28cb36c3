//! A keyed call: a command or a file to be written, journaled before it is sent and never sent as another.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use svc_core::{data::idempotency, wire::error::Invalid};

/// Most bytes of standard input, of a file, and kept of each output stream.
pub const CONTENT_BYTES: usize = 1 << 20;
/// Most bytes of all arguments.
const ARGV_BYTES: usize = 128 << 10;
/// Most bytes of all further environment.
const ENV_BYTES: usize = 128 << 10;
/// Longest path.
const PATH_BYTES: usize = 4_095;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Set by the guest, which finds descendants by it.
const RESERVED_VARIABLE: &str = "STEWARD_EXEC";

/// What a key begins with that was made of an `idempotency-key`.
const OF_REQUEST: &str = "idempotency-key:";

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecState {
    /// Journaled; it may be on its way, or run.
    Running,
    /// It has a result.
    Finished,
    /// Written off before it ran; it never will.
    Abandoned,
    /// It may or may not have run, and nobody can tell any more.
    InDoubt,
}

/// Names a call within its sandbox, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// The key that a caller gave, or a new one.
    ///
    /// # Errors
    /// [`Invalid`] if it has other characters or is too long.
    pub fn parse_or_new(text: String) -> Result<Self, Invalid> {
        if text.is_empty() { Ok(Self(svc_core::id::new_id().to_string())) } else { Self::parse(text) }
    }

    /// The key of a call that came with an `idempotency-key`: the same for the same method and key.
    #[must_use]
    pub fn of_request(method: &str, key: &idempotency::Key) -> Self {
        let hash = Sha256::digest(format!("{method}\0{key}"));
        let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self(format!("{OF_REQUEST}{hex}"))
    }

    /// Whether it was made of an `idempotency-key`.
    #[must_use]
    pub fn is_of_request(&self) -> bool {
        self.0.starts_with(OF_REQUEST)
    }

    /// The key that a caller gave.
    ///
    /// # Errors
    /// [`Invalid`] if it is missing, has other characters or is too long.
    pub fn parse(text: String) -> Result<Self, Invalid> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte);
        match (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text)),
            false => Err(Invalid::new("key", "must be 1 to 128 of [A-Za-z0-9_.:/-]")),
        }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a call does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Runs a command.
    Command(Command),
    /// Writes a file.
    Write(Write),
}

/// A command to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Standard input.
    pub stdin: Bytes,
    /// Working directory; empty is the workspace.
    pub cwd: String,
    /// Further environment.
    pub env: BTreeMap<String, String>,
    /// Killed after this long.
    pub timeout: Duration,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its path.
    pub path: String,
    /// Its content.
    pub content: Bytes,
    /// Permission bits; 0 is the default.
    pub mode: u32,
}

impl Command {
    /// Checks what the guest would refuse, so that nothing is journaled that cannot run.
    ///
    /// # Errors
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        let length = |texts: &[String]| texts.iter().map(|text| text.len() + 1).sum::<usize>();
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Invalid::new("argv", "must name a program"));
        }
        if length(&self.argv) > ARGV_BYTES {
            return Err(Invalid::new("argv", "must have at most 128 KiB"));
        }
        if self.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(Invalid::new("argv", "must not contain zero bytes"));
        }
        if self.stdin.len() > CONTENT_BYTES {
            return Err(Invalid::new("stdin", "must have at most 1 MiB"));
        }
        check_path("cwd", &self.cwd)?;
        if self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() > ENV_BYTES {
            return Err(Invalid::new("env", "must have at most 128 KiB"));
        }
        for (name, value) in &self.env {
            if name.is_empty()
                || name.contains(['=', '\0'])
                || value.contains('\0')
                || name == RESERVED_VARIABLE
            {
                return Err(Invalid::new("env", "has a name or a value that cannot be set"));
            }
        }
        Ok(())
    }
}

impl Write {
    /// Like [`Command::check`].
    ///
    /// # Errors
    /// [`Invalid`] names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.path.is_empty() {
            return Err(Invalid::new("path", "is required"));
        }
        check_path("path", &self.path)?;
        if self.content.len() > CONTENT_BYTES {
            return Err(Invalid::new("content", "must have at most 1 MiB"));
        }
        match self.mode <= 0o777 {
            true => Ok(()),
            false => Err(Invalid::new("mode", "must be permission bits, at most 0777")),
        }
    }
}

/// Checks the form of a path; where it leads is the guest's to say.
///
/// # Errors
/// [`Invalid`] names `field`.
pub fn check_path(field: &'static str, path: &str) -> Result<(), Invalid> {
    match path.len() <= PATH_BYTES && !path.contains('\0') {
        true => Ok(()),
        false => Err(Invalid::new(field, "must be a path of at most 4095 bytes")),
    }
}

/// The timeout that a caller asked for.
///
/// # Errors
/// [`Invalid`] if it is not between a millisecond and an hour.
pub fn timeout(asked: Option<Duration>) -> Result<Duration, Invalid> {
    match asked {
        None => Ok(DEFAULT_TIMEOUT),
        Some(asked) if asked >= Duration::from_millis(1) && asked <= LONGEST_TIMEOUT => Ok(asked),
        Some(_) => Err(Invalid::new("timeout", "must be between 1 ms and 1 h")),
    }
}

impl Call {
    /// SHA-256 of everything that decides what it does: a key means one call.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Every part with its length in front, so that no two calls read the same.
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

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: String,
    /// How it stands.
    pub state: ExecState,
    /// How it ended, if it is finished.
    pub outcome: Option<Outcome>,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; 128 + signal if killed.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more standard output.
    pub stdout_truncated: bool,
    /// Whether there was more standard error.
    pub stderr_truncated: bool,
    /// Whether it was killed at its timeout.
    pub timed_out: bool,
    /// How long it ran.
    pub duration: Duration,
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
    fn keys_have_few_characters_and_an_end() {
        for good in ["a", "turn/1.2:3_4-5", &"k".repeat(128)] {
            assert_eq!(Key::parse(good.to_owned()).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ü", &"k".repeat(129), "a\n"] {
            assert!(Key::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(Key::parse_or_new(String::new()).unwrap().as_str().len(), 36);

        let of = |method, key: &str| Key::of_request(method, &key.parse().unwrap());
        assert_eq!(of("Exec", "a?b"), of("Exec", "a?b"));
        assert_ne!(of("Exec", "a?b"), of("WriteFile", "a?b"));
        assert_ne!(of("Exec", "a?b"), of("Exec", "a?c"));
        let key = of("Exec", &"~".repeat(255));
        assert_eq!(Key::parse(key.as_str().to_owned()).unwrap(), key);
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
    fn what_the_guest_would_refuse_is_refused_before_it_is_journaled() {
        let env = |name: &str| Command { env: [(name.to_owned(), String::new())].into(), ..command(&["a"]) };
        for (field, bad) in [
            ("argv", command(&[])),
            ("argv", command(&[""])),
            ("argv", command(&["a\0"])),
            ("argv", command(&[&"a".repeat(ARGV_BYTES)])),
            ("stdin", Command { stdin: vec![0; CONTENT_BYTES + 1].into(), ..command(&["a"]) }),
            ("cwd", Command { cwd: "a".repeat(5000), ..command(&["a"]) }),
            ("env", env("")),
            ("env", env("A=B")),
            ("env", env(RESERVED_VARIABLE)),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
        command(&["a"]).check().unwrap();
        let write = Write { path: "a".into(), content: Bytes::new(), mode: 0o777 };
        write.check().unwrap();
        for (field, bad) in [
            ("path", Write { path: String::new(), ..write.clone() }),
            ("content", Write { content: vec![0; CONTENT_BYTES + 1].into(), ..write.clone() }),
            ("mode", Write { mode: 0o1777, ..write }),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn timeouts_have_bounds_and_a_default() {
        assert_eq!(timeout(None).unwrap(), Duration::from_secs(60));
        assert_eq!(timeout(Some(Duration::from_secs(3600))).unwrap(), Duration::from_secs(3600));
        for bad in [Duration::ZERO, Duration::from_secs(3601)] {
            assert_eq!(timeout(Some(bad)).unwrap_err().field, "timeout");
        }
    }
}
