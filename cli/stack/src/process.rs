//! Processes the development stack starts: recorded on disk, stopped in order, found again after a crash.
//!
//! A record holds the process id and the tick at which the kernel started it, so that a reused id is never
//! taken for ours. A daemon leads its own process group: a terminal's Ctrl-C reaches `steward` alone, which
//! then stops what it started in the right order.

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

use crate::home::Home;

const POLL: Duration = Duration::from_millis(20);

/// The unprivileged user that servers run as when `steward` runs as root.
#[derive(Debug, Clone)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

impl User {
    /// The first of `names` that exists, if this process is root; nothing otherwise: servers then run as
    /// the user who called.
    pub fn for_servers(names: &[&str]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let user = names.iter().find_map(|name| users.lines().find_map(|line| Self::parse(line, name)));
        match user {
            Some(user) => Ok(Some(user)),
            None => bail!("none of the users {} exists to run a server as", names.join(", ")),
        }
    }

    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some(Self { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Makes a command run as this user.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// A background server that this process started and must stop.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    record: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a server in its own process group, its output going to `logs/<name>.log`, `input` to its
    /// standard input.
    pub fn start(home: &Home, name: &str, mut command: Command, input: &str) -> Result<Self> {
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

    /// What it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so. Fails with the end of the log if the server ends or takes too long.
    pub async fn until_ready(&mut self, within: Duration, ready: impl AsyncFn() -> bool) -> Result<()> {
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

    /// Stops it: each signal in turn, the next one once its time is over.
    pub async fn stop(mut self, signals: &[(Signal, Duration)]) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        for (signal, patience) in signals {
            if self.child.try_wait()?.is_some() {
                break;
            }
            kill_process(pid, *signal).with_context(|| format!("signal {}", self.name))?;
            let sent = Instant::now();
            while self.child.try_wait()?.is_none() && sent.elapsed() < *patience {
                tokio::time::sleep(POLL).await;
            }
        }
        if self.child.try_wait()?.is_none() {
            bail!("{} (process {}) does not stop", self.name, self.child.id());
        }
        forget(&self.record)
    }
}

/// Ends a process that an earlier, killed `steward` left behind. Returns its id if there was one.
pub async fn end_leftover(record: &Path, signals: &[(Signal, Duration)]) -> Result<Option<u32>> {
    let Some(pid) = recorded(record)? else {
        return Ok(None);
    };
    for (signal, patience) in signals {
        kill_process(pid, *signal).with_context(|| format!("signal leftover process {pid}"))?;
        let sent = Instant::now();
        while sent.elapsed() < *patience {
            tokio::time::sleep(POLL).await;
            if recorded(record)?.is_none() {
                forget(record)?;
                return Ok(Some(pid.as_raw_nonzero().get().unsigned_abs()));
            }
        }
    }
    bail!("leftover process {pid} of {} does not stop", record.display())
}

/// Writes down which process a record stands for. One that has ended already needs no record.
pub fn remember(record: &Path, pid: u32) -> Result<()> {
    let Some(start) = start_tick(pid) else {
        return forget(record);
    };
    fs::write(record, format!("{pid} {start}\n")).with_context(|| format!("write {}", record.display()))
}

/// Removes a record; one that is gone already is fine.
pub fn forget(record: &Path) -> Result<()> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", record.display()))
        }
        _ => Ok(()),
    }
}

/// The recorded process, if it is still the same one and not a zombie.
fn recorded(record: &Path) -> Result<Option<Pid>> {
    let text = match fs::read_to_string(record) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", record.display())),
    };
    let mut fields = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (fields.next(), fields.next()) else {
        bail!("{} is not a process record", record.display());
    };
    let pid = u32::try_from(pid)?;
    Ok((start_tick(pid) == Some(start)).then(|| Pid::from_raw(pid.cast_signed())).flatten())
}

/// When the kernel started a process, in ticks since boot; nothing if it is gone or a zombie.
fn start_tick(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, so count after it.
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
