//! The processes that the stack starts. Each is recorded on disk, so that a later `steward` can stop it if
//! this one crashes.
//!
//! A record contains the process id and the tick at which the kernel started the process. Another process
//! that later gets the same id is thus not signalled. A daemon leads its own process group: Ctrl-C in a
//! terminal signals `steward` only, which then stops its daemons in the right order.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, read_if_exists};

const POLL: Duration = Duration::from_millis(20);

/// A background server that this process started and must stop.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    record: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a server in its own process group. `input` is its standard input; its output is appended to
    /// `logs/<name>.log`.
    pub(crate) fn start(home: &Home, name: &str, mut command: Command, input: &str) -> Result<Self> {
        let log = home.directory("logs")?.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let record = home.directory("run")?.join(format!("{name}.pid"));
        command.process_group(0).stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        remember(&record, child.id())?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes()).with_context(|| format!("configure {name}"))?;
        }
        Ok(Self { name: name.to_owned(), child, record, log })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` returns true.
    ///
    /// # Errors
    /// Fails if the server exits, or is not ready after the time `within`. The error ends with the last lines
    /// of its log.
    pub(crate) async fn until_ready(
        &mut self,
        within: Duration,
        ready: impl AsyncFn() -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.last_lines());
            }
            if ready().await {
                return Ok(());
            }
            if started.elapsed() > within {
                bail!("{} was not ready after {within:?}:\n{}", self.name, self.last_lines());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn last_lines(&self) -> String {
        let text = match fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return format!("(no log at {}: {error})", self.log.display()),
        };
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
        format!("{}\n(from {})", tail.join("\n"), self.log.display())
    }

    /// Sends the signals one after the other, until the server has exited. Waits at most the given time after
    /// each.
    pub async fn stop(mut self, signals: &[(Signal, Duration)]) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        for (signal, wait) in signals {
            if self.child.try_wait()?.is_some() {
                break;
            }
            kill_process(pid, *signal).with_context(|| format!("signal {}", self.name))?;
            let sent = Instant::now();
            while self.child.try_wait()?.is_none() && sent.elapsed() < *wait {
                tokio::time::sleep(POLL).await;
            }
        }
        if self.child.try_wait()?.is_none() {
            bail!("{} (process {}) does not stop", self.name, self.child.id());
        }
        forget(&self.record)
    }
}

/// Stops a process that an earlier `steward` left running when it was killed. Returns its id, or `None` if
/// there was none.
pub async fn end_leftover(record: &Path, signals: &[(Signal, Duration)]) -> Result<Option<u32>> {
    let Some(pid) = recorded(record)? else {
        return Ok(None);
    };
    for (signal, wait) in signals {
        kill_process(pid, *signal).with_context(|| format!("signal leftover process {pid}"))?;
        let sent = Instant::now();
        while sent.elapsed() < *wait {
            tokio::time::sleep(POLL).await;
            if recorded(record)?.is_none() {
                forget(record)?;
                return Ok(Some(pid.as_raw_nonzero().get().unsigned_abs()));
            }
        }
    }
    bail!("leftover process {pid} of {} does not stop", record.display())
}

/// Writes the record of a process. If the process has already exited, writes no record.
pub fn remember(record: &Path, pid: u32) -> Result<()> {
    let Some(start) = start_tick(pid) else {
        return forget(record);
    };
    fs::write(record, format!("{pid} {start}\n")).with_context(|| format!("write {}", record.display()))
}

/// Removes a record. A missing file is not an error.
pub fn forget(record: &Path) -> Result<()> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", record.display()))
        }
        _ => Ok(()),
    }
}

/// Returns the recorded process; `None` if it has exited, even if another process has its id now.
fn recorded(record: &Path) -> Result<Option<Pid>> {
    let Some(text) = read_if_exists(record)? else { return Ok(None) };
    let mut fields = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (fields.next(), fields.next()) else {
        bail!("{} is not a process record", record.display());
    };
    let pid = u32::try_from(pid)?;
    Ok((start_tick(pid) == Some(start)).then(|| Pid::from_raw(pid.cast_signed())).flatten())
}

/// Returns the start time of a process in ticks since boot; `None` if it has exited.
fn start_tick(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses. It may contain spaces, so fields are counted
    // after it.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM_THEN_KILL: &[(Signal, Duration)] =
        &[(Signal::TERM, Duration::from_millis(200)), (Signal::KILL, Duration::from_secs(5))];

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        (directory, home)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_daemon_that_ignores_the_first_signal_gets_the_next() {
        let (_directory, home) = home();
        let daemon =
            Daemon::start(&home, "deaf", shell("trap '' TERM; while :; do sleep 0.1; done"), "").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let pid = daemon.pid();
        daemon.stop(TERM_THEN_KILL).await.unwrap();
        assert_eq!(start_tick(pid), None);
        assert!(!home.path("run/deaf.pid").exists());
    }

    #[tokio::test]
    async fn a_daemon_that_ends_early_shows_the_end_of_its_log() {
        let (_directory, home) = home();
        let mut daemon =
            Daemon::start(&home, "brief", shell("read line; echo \"no $line\"; exit 3"), "luck\n").unwrap();
        let error = daemon.until_ready(Duration::from_secs(5), async || false).await.unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn a_leftover_is_ended_and_a_reused_process_id_is_left_alone() {
        let (_directory, home) = home();
        let daemon = Daemon::start(&home, "left", shell("sleep 60"), "").unwrap();
        let record = home.path("run/left.pid");
        let Daemon { mut child, .. } = daemon;
        let (ended, status) = tokio::join!(
            end_leftover(&record, TERM_THEN_KILL),
            tokio::task::spawn_blocking({
                let pid = child.id();
                move || (pid, child.wait())
            })
        );
        assert_eq!(ended.unwrap(), Some(status.unwrap().0));

        let own = std::process::id();
        fs::write(&record, format!("{own} 1\n")).unwrap();
        assert_eq!(end_leftover(&record, TERM_THEN_KILL).await.unwrap(), None);
    }
}
