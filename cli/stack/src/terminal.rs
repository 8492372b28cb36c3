//! Output for a person: lines on standard output, and the stages of a start with their times.
//!
//! If standard output is closed, the command fails with an error; it never panics.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Writes one line to standard output.
pub fn say(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Writes text to standard output without a line end.
pub fn show(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// Reports the stages of a start: one line each, with the seconds since the start.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    started: Instant,
    silent: bool,
}

impl Stages {
    /// Shows times as seconds since `elapsed` before now. `make dev` passes the duration of the build that it
    /// ran before this process.
    pub fn since(elapsed: Duration) -> Self {
        let now = Instant::now();
        Self { started: now.checked_sub(elapsed).unwrap_or(now), silent: false }
    }

    /// Reports nothing. For commands that run another program on the same output.
    pub fn silent() -> Self {
        Self { started: Instant::now(), silent: true }
    }

    pub fn report(&self, name: &str, text: impl Display) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        say(format_args!("[{:6.1} s] {name:<10} {text}", self.started.elapsed().as_secs_f64()))
    }
}

/// Writes one line to standard error. A failed write cannot be reported anywhere else.
pub fn complain(line: impl Display) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
