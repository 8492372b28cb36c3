//! Executes the built-in tools; the effect of each call happens at most once.
//!
//! A call with an effect is journaled as dispatched, with its key, before it is sent. If its answer is lost
//! (with the connection, or with the worker that waited for it), the worker asks sandbox-svc for the state of
//! the key instead of sending the call again:
//!
//! * the call ran: its result is adopted;
//! * the call runs: the worker waits for its end;
//! * the call did not arrive: sandbox-svc abandons the key (refuses it from then on), and the call is sent
//!   under the next one;
//! * no service knows: the model reads that the call is in doubt.
//!
//! A call that only reads is sent again until sandbox-svc answers, for at most `resolve_timeout`.

use svc_core::{
    error::Chain,
    id::{AccountId, SandboxId},
    run::failpoint,
};
use tokio::time::Instant;

use crate::{
    app::run::{Run, RunError},
    client::sandbox::{CallFailed, Record, Sandboxes},
    domain::{
        tool_call::{JournaledCall, Recovery},
        tools::{ActTool, BuiltIn, ExecResult, Outcome, ReadTool},
    },
};

/// Number of times that an abandoned call is sent again even if `resolve_timeout` has passed since it was
/// first abandoned. Within `resolve_timeout` the number is not limited. A replica of sandbox-svc or an engine
/// that is unreachable for a moment must not fail the tool.
const RESENDS: usize = 5;
const NEVER_TAKEN: &str = "The session's sandbox did not take the call. It was not carried out.";

#[derive(Debug, Clone)]
pub(crate) struct Toolbox {
    sandboxes: Sandboxes,
}

/// Result of a dispatch.
enum Sent {
    Over(Outcome),
    /// The call did not run and never will under its key: it may be sent again under the next one.
    Abandoned,
}

impl Toolbox {
    pub(crate) fn new(sandboxes: Sandboxes) -> Self {
        Self { sandboxes }
    }

    /// Executes one call until it has a result, continuing from its state in the journal.
    pub(crate) async fn execute(&self, run: &Run, call: &mut JournaledCall) -> Result<(), RunError> {
        let outcome = match (call.recovery(), BuiltIn::parse(&call.call)) {
            (Recovery::Done, _) => return Ok(()),
            (_, Err(bad)) => Outcome::Refused(bad),
            (_, Ok(BuiltIn::Read(tool))) => self.read(run, &tool).await?,
            (Recovery::Dispatch, Ok(BuiltIn::Act(tool))) => self.act(run, call, &tool).await?,
            (Recovery::Resolve { sandbox_id }, Ok(BuiltIn::Act(tool))) => {
                match self.resolve(run, call, sandbox_id, &tool).await? {
                    Sent::Over(outcome) => outcome,
                    Sent::Abandoned => self.act(run, call, &tool).await?,
                }
            }
        };
        run.finish_call(call, outcome.render()).await
    }

    async fn read(&self, run: &Run, tool: &ReadTool) -> Result<Outcome, RunError> {
        let account = run.turn().account_id;
        let sandbox = match self.ready(run).await? {
            Ok(sandbox) => sandbox,
            Err(error) => return Ok(unusable(&error)),
        };
        let read = self.retried(run, || self.read_once(account, sandbox, tool)).await?;
        Ok(read.unwrap_or_else(|error| unusable(&error)))
    }

    async fn read_once(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        tool: &ReadTool,
    ) -> Result<Outcome, CallFailed> {
        match tool {
            ReadTool::ListFiles { path } => {
                let (entries, truncated) = self.sandboxes.list_files(account, sandbox, path).await?;
                Ok(Outcome::Listed { entries, truncated })
            }
            ReadTool::ReadFile { path } => {
                let content = self.sandboxes.read_file(account, sandbox, path).await?;
                Ok(Outcome::Read { content })
            }
        }
    }

    async fn act(&self, run: &Run, call: &mut JournaledCall, tool: &ActTool) -> Result<Outcome, RunError> {
        let (mut resends, mut since) = (0, Instant::now());
        loop {
            let sandbox = match self.ready(run).await? {
                Ok(sandbox) => sandbox,
                Err(error) => return Ok(unusable(&error)),
            };
            run.dispatch(call, sandbox).await?;
            failpoint::hit("chat.tool.dispatched").await;
            let sent = interruptible(run, self.send(run, call, sandbox, tool)).await?;
            failpoint::hit("chat.tool.returned").await;
            let sent = match sent {
                Ok(record) => match conclude(record, tool) {
                    Some(sent) => sent,
                    None => self.resolve(run, call, sandbox, tool).await?,
                },
                Err(CallFailed::Refused { message, .. }) => Sent::Over(Outcome::Failed { message }),
                Err(CallFailed::Unknown(error)) => {
                    tracing::warn!(error = %Chain(&error), "answer of a tool call lost, resolving the call");
                    self.resolve(run, call, sandbox, tool).await?
                }
            };
            match sent {
                Sent::Over(outcome) => return Ok(outcome),
                Sent::Abandoned
                    if resends < RESENDS || since.elapsed() < self.sandboxes.config().resolve_timeout =>
                {
                    if resends == 0 {
                        since = Instant::now();
                    }
                    resends += 1;
                }
                Sent::Abandoned => return Ok(Outcome::Failed { message: NEVER_TAKEN.to_owned() }),
            }
            interruptible(run, tokio::time::sleep(self.sandboxes.config().resolve_pause)).await?;
        }
    }

    async fn send(
        &self,
        run: &Run,
        call: &JournaledCall,
        sandbox: SandboxId,
        tool: &ActTool,
    ) -> Result<Record, CallFailed> {
        let (account, key) = (run.turn().account_id, call.exec_key());
        match tool {
            ActTool::Shell { command, timeout } => {
                self.sandboxes.shell(account, sandbox, &key, command, *timeout).await
            }
            ActTool::WriteFile { path, content } => {
                self.sandboxes.write_file(account, sandbox, &key, path, content).await
            }
        }
    }

    /// Asks sandbox-svc for the state of the last dispatch until the state is final. The call is in doubt if
    /// sandbox-svc refuses to tell or does not answer for `resolve_timeout`, or if it still reports the call
    /// as running that long after the call's own timeout.
    async fn resolve(
        &self,
        run: &Run,
        call: &JournaledCall,
        sandbox: SandboxId,
        tool: &ActTool,
    ) -> Result<Sent, RunError> {
        let config = self.sandboxes.config();
        let mut silent_since = Instant::now();
        // The command's timeout bounds this wait. If sandbox-svc still says "running" later, its record is
        // stale: the sandbox is being removed and its engine is unreachable.
        let ends_by = silent_since + tool.longest() + config.resolve_timeout;
        loop {
            let key = call.exec_key();
            let asked_at = Instant::now();
            let asked = self.sandboxes.resolve(run.turn().account_id, sandbox, &key);
            match interruptible(run, asked).await? {
                Ok(record) => match conclude(record, tool) {
                    Some(sent) => return Ok(sent),
                    None if Instant::now() >= ends_by => {
                        tracing::warn!("tool call still running past its timeout, left in doubt");
                        return Ok(Sent::Over(Outcome::InDoubt));
                    }
                    None => {
                        silent_since = Instant::now();
                        // Pauses between requests also if sandbox-svc answers "running" at once.
                        let pause = tokio::time::sleep_until(asked_at + config.resolve_pause);
                        interruptible(run, pause).await?;
                    }
                },
                Err(CallFailed::Refused { .. }) => return Ok(Sent::Over(Outcome::InDoubt)),
                Err(CallFailed::Unknown(error)) => {
                    if silent_since.elapsed() >= config.resolve_timeout {
                        tracing::warn!(error = %Chain(&error), "tool call not resolved, left in doubt");
                        return Ok(Sent::Over(Outcome::InDoubt));
                    }
                    interruptible(run, tokio::time::sleep(config.resolve_pause)).await?;
                }
            }
        }
    }

    /// Returns the session's sandbox once it runs.
    async fn ready(&self, run: &Run) -> Result<Result<SandboxId, CallFailed>, RunError> {
        let turn = run.turn();
        self.retried(run, || self.sandboxes.ready(turn.account_id, turn.session_id)).await
    }

    /// Makes a repeatable call until sandbox-svc answers, for `resolve_timeout` at most: a replica that
    /// stops, or an engine that restarts, must not fail the tool.
    async fn retried<T, F: Future<Output = Result<T, CallFailed>>>(
        &self,
        run: &Run,
        call: impl Fn() -> F,
    ) -> Result<Result<T, CallFailed>, RunError> {
        let config = self.sandboxes.config();
        let silent_since = Instant::now();
        loop {
            match interruptible(run, call()).await? {
                Err(CallFailed::Unknown(_)) if silent_since.elapsed() < config.resolve_timeout => {
                    interruptible(run, tokio::time::sleep(config.resolve_pause)).await?;
                }
                answered => return Ok(answered),
            }
        }
    }
}

/// Returns the result in a record; `None` while the call runs.
fn conclude(record: Record, tool: &ActTool) -> Option<Sent> {
    match record {
        Record::Running => None,
        Record::Abandoned => Some(Sent::Abandoned),
        Record::InDoubt => Some(Sent::Over(Outcome::InDoubt)),
        Record::Finished(result) => Some(Sent::Over(finished(result, tool))),
    }
}

fn finished(result: ExecResult, tool: &ActTool) -> Outcome {
    match tool {
        ActTool::WriteFile { path, content } if result.exit_code == 0 => {
            Outcome::Wrote { path: path.clone(), bytes: content.len() }
        }
        ActTool::WriteFile { .. } => Outcome::Failed { message: result.stderr },
        ActTool::Shell { timeout, .. } => {
            // The record of a resolve has the command's duration in place of its timeout, so the call's
            // timeout is used.
            Outcome::Exec(ExecResult { timed_out: result.timed_out.map(|_| *timeout), ..result })
        }
    }
}

fn unusable(error: &CallFailed) -> Outcome {
    match error {
        CallFailed::Refused { message, .. } => Outcome::Failed { message: message.clone() },
        CallFailed::Unknown(error) => {
            tracing::warn!(error = %Chain(error), "sandbox of the session unreachable");
            Outcome::Failed { message: "The session's sandbox cannot be reached right now.".to_owned() }
        }
    }
}

/// Awaits `work`, or returns why the run must end first.
async fn interruptible<T>(run: &Run, work: impl Future<Output = T>) -> Result<T, RunError> {
    tokio::select! {
        biased;
        error = run.interrupted() => Err(error),
        done = work => Ok(done),
    }
}
