//! What `steward` writes for a person: lines on standard output, and stages with the seconds they took.
//!
//! A closed standard output is an error of the command, never a panic.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Writes one line.
pub fn say(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Writes text as it is, for output that arrives in pieces.
pub fn show(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// The stages of a start: one line each, with the seconds since the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    started: Instant,
    silent: bool,
}

impl Stages {
    /// Stages that count from `ahead` ago: a build may have gone before.
    pub fn since(ahead: Duration) -> Self {
        let now = Instant::now();
        Self { started: now.checked_sub(ahead).unwrap_or(now), silent: false }
    }

    /// Stages that are not shown, for commands whose output belongs to another program.
    pub fn silent() -> Self {
        Self { started: Instant::now(), silent: true }
    }

    /// Reports one stage.
    pub fn report(&self, name: &str, text: impl Display) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        say(format_args!("[{:6.1} s] {name:<10} {text}", self.started.elapsed().as_secs_f64()))
    }
}

/// Writes one line to standard error. There is nowhere to report that this failed.
pub fn complain(line: impl Display) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
