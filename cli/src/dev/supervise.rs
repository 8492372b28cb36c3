//! Child processes of the local plane: started, watched, restarted when they crash, stopped together.
//!
//! Each child leads its own process group, so a terminal's Ctrl-C reaches the supervisor alone. Its output
//! comes out line by line under its name. It holds the reading end of a pipe as standard input and stops by
//! itself when the pipe closes, so that a supervisor that is killed leaves nothing running.

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

/// Exit code of a process that refuses its configuration: starting it again would change nothing.
pub const BAD_CONFIGURATION: i32 = 64;

const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// A child that ran this long is healthy again: its next crash is its first.
const SETTLED: Duration = Duration::from_secs(30);
/// A service drains in at most 25 s; then the supervisor stops waiting.
const DRAIN: Duration = Duration::from_secs(28);
/// How to stop a child that an earlier supervisor left behind.
pub const STOP: &[(Signal, Duration)] = &[(Signal::TERM, DRAIN), (Signal::KILL, Duration::from_secs(5))];
/// For the last lines of a child that has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One child.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name, as its lines show it.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to this process's own.
    pub environment: Vec<(String, String)>,
}

/// Keeps children running until it is told to stop.
#[derive(Debug)]
pub struct Supervisor {
    children: JoinSet<Result<()>>,
    journal: Arc<Journal>,
    run: PathBuf,
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Supervisor {
    /// A supervisor that records its children's ids in the home and their lines in `logs/plane.log`.
    pub fn new(home: &Home) -> Result<Self> {
        let log = home.directory("logs")?.join("plane.log");
        let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let journal = Journal { file: Mutex::new(file), coloured: std::io::stdout().is_terminal() };
        Ok(Self {
            children: JoinSet::new(),
            journal: Arc::new(journal),
            run: home.directory("run")?,
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
        })
    }

    /// Starts a child and keeps it running.
    pub fn keep(&mut self, spec: Spec) {
        let keeper = Keeper {
            record: self.run.join(format!("{}.pid", spec.name)),
            journal: self.journal.clone(),
            stop: self.stop.clone(),
            hurry: self.hurry.clone(),
            spec,
        };
        self.children.spawn(keeper.run());
    }

    /// Waits until a child is given up: its error says which one and why.
    pub async fn failure(&mut self) -> anyhow::Error {
        match self.children.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("nothing is supervised any more"),
            Some(Err(error)) => anyhow::Error::new(error).context("a supervising task ended"),
        }
    }

    /// Stops every child; `hurried` resolves when somebody does not want to wait for their drain.
    pub async fn stop(mut self, hurried: impl Future<Output = ()>) -> Result<()> {
        self.stop.cancel();
        let mut hurried = std::pin::pin!(hurried);
        let mut failures = Vec::new();
        loop {
            let ended = tokio::select! {
                ended = self.children.join_next() => ended,
                () = &mut hurried, if !self.hurry.is_cancelled() => {
                    self.hurry.cancel();
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

/// Where children's lines go: the terminal, and a file that is begun anew at each start.
#[derive(Debug)]
struct Journal {
    file: Mutex<File>,
    coloured: bool,
}

impl Journal {
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
                Err(error) => return self.line(name, &format!("(its output ends: {error})")),
            }
        }
    }
}

/// One child and its restarts.
struct Keeper {
    spec: Spec,
    record: PathBuf,
    journal: Arc<Journal>,
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Keeper {
    async fn run(self) -> Result<()> {
        let name = self.spec.name;
        let mut crashes = 0;
        loop {
            let started = Instant::now();
            let mut child = self.start()?;
            // Held open until the child has ended: it stops by itself when this closes.
            let lifeline = child.stdin.take();
            let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let mut watch = std::pin::pin!(self.watch(child));
            let status = tokio::select! {
                status = &mut watch => status?,
                () = self.stop.cancelled() => {
                    self.end(pid, watch).await?;
                    drop(lifeline);
                    return forget(&self.record);
                }
            };
            forget(&self.record)?;
            if status.code() == Some(BAD_CONFIGURATION) {
                bail!("{name} refused its configuration (its lines above say why)");
            }
            crashes = if started.elapsed() > SETTLED { 1 } else { crashes + 1 };
            let pause = RESTART.delay(crashes, rand::random());
            self.journal.line(name, &format!("ended with {status}; starting it again in {pause:.1?}"));
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
            self.journal.line(name, &format!("started, process {pid}"));
        }
        Ok(child)
    }

    /// Passes the child's lines on until it ends.
    async fn watch(&self, mut child: Child) -> Result<ExitStatus> {
        let name = self.spec.name;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let follow_out = async {
            if let Some(out) = out {
                self.journal.follow(name, out).await
            }
        };
        let follow_err = async {
            if let Some(err) = err {
                self.journal.follow(name, err).await
            }
        };
        let mut lines = std::pin::pin!(async { tokio::join!(follow_out, follow_err) });
        let status = tokio::select! {
            status = child.wait() => status,
            // Both streams are closed, yet it runs on.
            _ = &mut lines => return child.wait().await.with_context(|| format!("wait for {name}")),
        };
        // What it said last; a grandchild that keeps the streams open does not hold us up.
        let _rest = timeout(LAST_WORDS, lines).await;
        status.with_context(|| format!("wait for {name}"))
    }

    /// Asks the child to stop, then makes it.
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
            () = self.hurry.cancelled() => self.journal.line(name, "killed without draining"),
            () = sleep(DRAIN) => self.journal.line(name, "did not drain in time, killing it"),
        }
        kill_process_group(pid, Signal::KILL).with_context(|| format!("kill {name}"))?;
        timeout(Duration::from_secs(5), watch)
            .await
            .with_context(|| format!("{name} does not die"))?
            .map(drop)
    }
}

#[cfg(test)]
mod tests;
