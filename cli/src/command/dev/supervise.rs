//! Supervises the processes of the local plane: starts them, restarts those that crash, and stops them
//! together.
//!
//! Each child leads its own process group, so that Ctrl-C in a terminal signals the supervisor only. Each
//! line of a child's output is printed with the child's name in front. The child's standard input is a pipe
//! from the supervisor. A service stops when that pipe closes, so it does not keep running if the supervisor
//! is killed.

use std::{
    ffi::OsString,
    fs::File,
    io::{IsTerminal, Write},
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use steward_stack::{
    Home,
    process::{forget, remember},
    terminal::{complain, say},
};
use svc_core::run::backoff::Backoff;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that refuses its configuration. The supervisor does not restart it, because the
/// process would refuse the same configuration again.
const BAD_CONFIGURATION: i32 = 64;

const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// If a child ran for longer than this before it crashed, the pause before its restart is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Maximum time for a child to drain. A service's own limit is 25 s.
const DRAIN: Duration = Duration::from_secs(28);
/// Signals that stop a child of an earlier supervisor, each with the time to wait for its effect.
pub(super) const STOP: &[(Signal, Duration)] =
    &[(Signal::TERM, DRAIN), (Signal::KILL, Duration::from_secs(5))];
/// Maximum time to wait for the last lines of a child that has exited.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A child process to keep running.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// Printed in front of each line of output.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Variables added to the supervisor's own environment.
    pub(super) environment: Vec<(String, String)>,
}

/// Keeps children running until [`Supervisor::stop`].
#[derive(Debug)]
pub(super) struct Supervisor {
    children: JoinSet<Result<()>>,
    output: Arc<Output>,
    run: PathBuf,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Supervisor {
    /// Builds a supervisor without children. It records the process ids of its children in `run/` of the
    /// home, and writes their output to `logs/plane.log`, which it empties first.
    pub(super) fn new(home: &Home) -> Result<Self> {
        let log = home.directory("logs")?.join("plane.log");
        let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let output = Output { file: Mutex::new(file), coloured: std::io::stdout().is_terminal() };
        Ok(Self {
            children: JoinSet::new(),
            output: Arc::new(output),
            run: home.directory("run")?,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        })
    }

    /// Starts a child and restarts it when it crashes.
    pub(super) fn keep(&mut self, spec: Spec) {
        let keeper = Keeper {
            record: self.run.join(format!("{}.pid", spec.name)),
            output: self.output.clone(),
            stop: self.stop.clone(),
            kill: self.kill.clone(),
            spec,
        };
        self.children.spawn(keeper.run());
    }

    /// Waits until the supervisor gives up a child, for example because the child refused its configuration.
    /// Returns an error with the reason.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        match self.children.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("no child is supervised any more"),
            Some(Err(error)) => anyhow::Error::new(error).context("a supervising task ended"),
        }
    }

    /// Stops every child. When `kill_now` resolves, children that still drain are killed.
    pub(super) async fn stop(mut self, kill_now: impl Future<Output = ()>) -> Result<()> {
        self.stop.cancel();
        let mut kill_now = std::pin::pin!(kill_now);
        let mut failures = Vec::new();
        loop {
            let ended = tokio::select! {
                ended = self.children.join_next() => ended,
                () = &mut kill_now, if !self.kill.is_cancelled() => {
                    self.kill.cancel();
                    continue;
                }
            };
            match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => failures.push(format!("{error:#}")),
                Some(Err(error)) => failures.push(error.to_string()),
            }
        }
        if failures.is_empty() { Ok(()) } else { bail!(failures.join("\n")) }
    }
}

/// Writes the children's lines to the terminal and to a file, which is emptied at each start of the plane.
#[derive(Debug)]
struct Output {
    file: Mutex<File>,
    coloured: bool,
}

impl Output {
    fn line(&self, name: &str, text: &str) {
        let written = {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(file, "{name:<8} | {text}")
        };
        let shown = if self.coloured {
            say(format_args!("\x1b[2m{name:<8} |\x1b[0m {text}"))
        } else {
            say(format_args!("{name:<8} | {text}"))
        };
        if let Err(error) = written.and(shown) {
            complain(format_args!("steward: a line of {name} is lost: {error}"));
        }
    }

    async fn follow(&self, name: &str, stream: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stream).lines();
        loop {
            match lines.next_line().await {
                Ok(Some(text)) => self.line(name, &text),
                Ok(None) => return,
                Err(error) => return self.line(name, &format!("(its output cannot be read: {error})")),
            }
        }
    }
}

/// One child and its restarts.
struct Keeper {
    spec: Spec,
    record: PathBuf,
    output: Arc<Output>,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Keeper {
    async fn run(self) -> Result<()> {
        let name = self.spec.name;
        let mut crashes = 0;
        loop {
            let started = Instant::now();
            let mut child = self.start()?;
            // Keeps the pipe open until the child has exited: the child stops when the pipe closes.
            let stdin = child.stdin.take();
            let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let mut watch = std::pin::pin!(self.watch(child));
            let status = tokio::select! {
                status = &mut watch => status?,
                () = self.stop.cancelled() => {
                    self.end(pid, watch).await?;
                    drop(stdin);
                    return forget(&self.record);
                }
            };
            forget(&self.record)?;
            if status.code() == Some(BAD_CONFIGURATION) {
                bail!("{name} refused its configuration (its lines above say why)");
            }
            crashes = if started.elapsed() > HEALTHY_AFTER { 1 } else { crashes + 1 };
            let pause = RESTART.delay(crashes, rand::random());
            self.output.line(name, &format!("ended with {status}; starting it again in {pause:.1?}"));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    fn start(&self) -> Result<Child> {
        let Spec { name, program, arguments, environment } = &self.spec;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}: {}", program.display()))?;
        if let Some(pid) = child.id() {
            remember(&self.record, pid)?;
            self.output.line(name, &format!("started, process {pid}"));
        }
        Ok(child)
    }

    /// Writes the child's lines until it exits.
    async fn watch(&self, mut child: Child) -> Result<ExitStatus> {
        let name = self.spec.name;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let follow_out = async {
            if let Some(out) = out {
                self.output.follow(name, out).await
            }
        };
        let follow_err = async {
            if let Some(err) = err {
                self.output.follow(name, err).await
            }
        };
        let mut lines = std::pin::pin!(async { tokio::join!(follow_out, follow_err) });
        let status = tokio::select! {
            status = child.wait() => status,
            // Both streams are closed, but the child is still running.
            _ = &mut lines => return child.wait().await.with_context(|| format!("wait for {name}")),
        };
        // Waits for the child's last lines, but not long: a grandchild may keep the streams open.
        let _rest = timeout(LAST_LINES, lines).await;
        status.with_context(|| format!("wait for {name}"))
    }

    /// Sends SIGTERM. If the child does not drain in time, or if `kill` fires, sends SIGKILL.
    async fn end(
        &self,
        pid: Option<Pid>,
        mut watch: Pin<&mut impl Future<Output = Result<ExitStatus>>>,
    ) -> Result<()> {
        let (Some(pid), name) = (pid, self.spec.name) else {
            return watch.await.map(drop);
        };
        kill_process(pid, Signal::TERM).with_context(|| format!("stop {name}"))?;
        tokio::select! {
            status = &mut watch => return status.map(drop),
            () = self.kill.cancelled() => self.output.line(name, "killed without draining"),
            () = sleep(DRAIN) => self.output.line(name, "did not drain in time, killing it"),
        }
        kill_process_group(pid, Signal::KILL).with_context(|| format!("kill {name}"))?;
        timeout(Duration::from_secs(5), watch)
            .await
            .with_context(|| format!("{name} still runs after SIGKILL"))?
            .map(drop)
    }
}

#[cfg(test)]
mod tests;
