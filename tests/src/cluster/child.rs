//! One process of a cluster, with the faults that a test can inject.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use steward::plane::Process;
use steward_stack::Home;

use crate::eventually::eventually;
use tokio::process::ChildStdin;

/// Maximum time from SIGTERM to the end of a process, which every service promises.
const DRAIN: Duration = Duration::from_secs(25);
const SLACK: Duration = Duration::from_secs(3);

/// One process; dropping the value kills it.
#[derive(Debug)]
pub struct Child {
    process: Process,
    log: PathBuf,
    running: Option<tokio::process::Child>,
    /// The process's standard input, kept open. The process stops when it closes, and so also when the test
    /// process dies.
    lifeline: Option<ChildStdin>,
    asked_to_stop: Option<Instant>,
    /// Environment variables of this process only.
    settings: BTreeMap<String, String>,
    /// Fail points of the next run only.
    armed: Option<String>,
}

impl Child {
    pub(super) fn start(process: &Process, home: &Home) -> Self {
        let log = home.directory("logs").unwrap().join(format!("{}.log", process.name));
        let mut child = Self {
            process: process.clone(),
            log,
            running: None,
            lifeline: None,
            asked_to_stop: None,
            settings: BTreeMap::new(),
            armed: None,
        };
        child.run();
        child
    }

    pub fn name(&self) -> &str {
        &self.process.name
    }

    /// Returns the base URL of the process's gRPC or HTTP listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.process.listen)
    }

    /// Returns the base URL of the process's operator endpoints.
    pub fn operator_url(&self) -> String {
        self.process.operator_url()
    }

    /// Returns the processor time used so far, in user and kernel mode.
    pub fn processor_time(&self) -> Duration {
        let pid = self.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // utime and stime are the 14th and 15th field of the line; the second is the name, in parentheses.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().and_then(tokio::process::Child::id).unwrap()
    }

    /// Returns whether the process was started and its end has not been observed.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns whether the process ended without being stopped.
    pub(super) fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some())
    }

    /// Arms fail points (`svc_core::run::failpoint`) for the next run of the process; later runs have none.
    pub fn arm(&mut self, failpoints: &str) {
        self.armed = Some(failpoints.to_owned());
    }

    /// Sets the configuration key `a.b` for this replica only, from its next run on.
    pub fn set(&mut self, key: &str, value: &str) {
        let service = self.process.service.name();
        let variable = format!("steward_{service}_{}", key.replace('.', "__")).to_uppercase();
        self.settings.insert(variable, value.to_owned());
    }

    /// Waits until an armed fail point suspends the process.
    pub async fn until_stopped(&self, within: Duration) {
        eventually(format!("{} stops", self.name()), within, async || self.is_stopped().then_some(())).await;
    }

    /// Returns whether the process is suspended, by a signal or a fail point.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The state follows the name, which is in parentheses.
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    }

    /// Starts the process, for the first time or again.
    pub fn run(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name());
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = super::command(&self.process);
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        command.envs(&self.settings);
        if let Some(failpoints) = self.armed.take() {
            let service = self.process.service.name().to_uppercase();
            command.env(format!("STEWARD_{service}_PROCESS__FAILPOINTS"), failpoints);
        }
        self.asked_to_stop = None;
        let mut running = command.spawn().unwrap();
        self.lifeline = running.stdin.take();
        self.running = Some(running);
    }

    pub fn signal(&mut self, signal: Signal) {
        if signal == Signal::TERM {
            self.asked_to_stop = Some(Instant::now());
        }
        kill_process(Pid::from_raw(self.pid().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Kills the process with SIGKILL, so that it cannot clean up, as in a power cut.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.running.take().unwrap().wait().await.unwrap();
    }

    /// Waits until the process ends. Returns `None` if it still runs after that time.
    pub async fn died(&mut self, within: Duration) -> Option<ExitStatus> {
        let status = tokio::time::timeout(within, self.running.as_mut().unwrap().wait()).await.ok()?.unwrap();
        self.running = None;
        Some(status)
    }

    /// Number of log lines that report a hit of a fail point.
    pub fn hits(&self, failpoint: &str) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains("fail point hit") && line.contains(failpoint)).count()
    }

    /// Suspends the process with SIGSTOP: it keeps its leases and locks, and does nothing.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the process with SIGCONT.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.running.take().unwrap().wait().await.unwrap()
    }

    /// Waits for the end of a process that was sent SIGTERM. Returns an error if it fails or takes too long.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        let Some(mut child) = self.running.take() else {
            return Ok(());
        };
        let asked = self.asked_to_stop.unwrap_or_else(Instant::now);
        let left = (DRAIN + SLACK).saturating_sub(asked.elapsed());
        match tokio::time::timeout(left, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{} ended with {status}\n{}", self.name(), self.log())),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name())),
            Err(_) => Err(format!("{} did not drain within {DRAIN:?}\n{}", self.name(), self.log())),
        }
    }

    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Returns the log of the process, each line prefixed with its name.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| format!("{} | {line}\n", self.name())).collect()
    }
}
