//! Carries out the built-in tools, each call's effect at most once.
//!
//! A call that changes something is journaled as dispatched, with its key, before it is sent. If its answer is lost
//! (the connection, or the worker that waited for it) it is never sent again blindly: sandbox-svc is asked what
//! became of the key. It ran: its result is adopted. It runs: it is waited for. It never arrived: that key is
//! written off for ever, and the call is made under the next one. Nobody can tell: the model reads that it is in
//! doubt. Calls that only read need none of this.

use svc_core::{
    id::{AccountId, SandboxId},
    run::failpoint,
    wire::error::Chain,
};
use tokio::time::Instant;

use crate::{
    app::run::{Run, Stop},
    client::sandbox::{CallFailed, Record, Sandboxes},
    domain::{
        tool_call::{JournaledCall, Recovery},
        tools::{BuiltIn, ExecResult, Outcome},
    },
};

/// How often, and at least for how long, a call that never began is made anew: each time takes a key of its sandbox,
/// so it has an end; and a replica or an engine that is away for a while is no reason for a tool to fail.
const WRITE_OFFS: usize = 5;
const NEVER_TAKEN: &str = "The session's sandbox did not take the call. It was not carried out.";

/// The built-in tools.
#[derive(Debug, Clone)]
pub struct Toolbox {
    sandboxes: Sandboxes,
}

/// What became of a dispatch.
enum Sent {
    Over(Outcome),
    /// It never ran and never will: it may be made anew.
    WrittenOff,
}

impl Toolbox {
    /// Tools that work in these sandboxes.
    #[must_use]
    pub fn new(sandboxes: Sandboxes) -> Self {
        Self { sandboxes }
    }

    /// Brings one call to its result, from wherever its journal says it is.
    pub async fn carry_out(&self, run: &Run, call: &mut JournaledCall) -> Result<(), Stop> {
        let outcome = match (call.recovery(), BuiltIn::parse(&call.call)) {
            (Recovery::Done, _) => return Ok(()),
            (_, Err(bad)) => Outcome::Refused(bad),
            (Recovery::Dispatch, Ok(tool)) => self.make(run, call, &tool).await?,
            (Recovery::Resolve { sandbox_id }, Ok(tool)) => {
                match self.resolve(run, call, sandbox_id, &tool).await? {
                    Sent::Over(outcome) => outcome,
                    Sent::WrittenOff => self.make(run, call, &tool).await?,
                }
            }
        };
        run.finish_call(call, outcome.render()).await
    }

    async fn make(&self, run: &Run, call: &mut JournaledCall, tool: &BuiltIn) -> Result<Outcome, Stop> {
        let turn = run.turn();
        let (mut written_off, mut since) = (0, Instant::now());
        loop {
            let ready = || self.sandboxes.ready(turn.account_id, turn.session_id);
            let sandbox = match self.patiently(run, ready).await? {
                Ok(sandbox) => sandbox,
                Err(error) => return Ok(unusable(&error)),
            };
            if tool.is_read_only() {
                return self.look(run, sandbox, tool).await;
            }
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
                    tracing::warn!(error = %Chain(&error), "a tool call's answer was lost, asking what became of it");
                    self.resolve(run, call, sandbox, tool).await?
                }
            };
            match sent {
                Sent::Over(outcome) => return Ok(outcome),
                Sent::WrittenOff
                    if written_off < WRITE_OFFS
                        || since.elapsed() < self.sandboxes.config().resolve_patience =>
                {
                    if written_off == 0 {
                        since = Instant::now();
                    }
                    written_off += 1;
                }
                Sent::WrittenOff => return Ok(Outcome::Failed { message: NEVER_TAKEN.to_owned() }),
            }
            interruptible(run, tokio::time::sleep(self.sandboxes.config().resolve_pause)).await?;
        }
    }

    async fn send(
        &self,
        run: &Run,
        call: &JournaledCall,
        sandbox: SandboxId,
        tool: &BuiltIn,
    ) -> Result<Record, CallFailed> {
        let (account, key) = (run.turn().account_id, call.exec_key());
        match tool {
            BuiltIn::Shell { command, timeout } => {
                self.sandboxes.shell(account, sandbox, &key, command, *timeout).await
            }
            BuiltIn::WriteFile { path, content } => {
                self.sandboxes.write_file(account, sandbox, &key, path, content).await
            }
            BuiltIn::ReadFile { .. } | BuiltIn::ListFiles { .. } => Ok(Record::Abandoned),
        }
    }

    /// Asks what became of the last dispatch until somebody can say, or for as long as that is worth waiting for.
    async fn resolve(
        &self,
        run: &Run,
        call: &JournaledCall,
        sandbox: SandboxId,
        tool: &BuiltIn,
    ) -> Result<Sent, Stop> {
        let config = self.sandboxes.config();
        let mut silent_since = Instant::now();
        // It runs for as long as it may, which its own timeout ends. What is said to run any longer does so nowhere:
        // its sandbox goes, and its engine is not there to say so.
        let ends_by = silent_since + tool.longest() + config.resolve_patience;
        loop {
            let key = call.exec_key();
            let asked_at = Instant::now();
            let asked = self.sandboxes.resolve(run.turn().account_id, sandbox, &key);
            match interruptible(run, asked).await? {
                Ok(record) => match conclude(record, tool) {
                    Some(sent) => return Ok(sent),
                    None if Instant::now() >= ends_by => {
                        tracing::warn!("a tool call is said to run for longer than it may");
                        return Ok(Sent::Over(Outcome::InDoubt));
                    }
                    None => {
                        silent_since = Instant::now();
                        // Whoever answers at once is not asked again at once.
                        let pause = tokio::time::sleep_until(asked_at + config.resolve_pause);
                        interruptible(run, pause).await?;
                    }
                },
                Err(CallFailed::Refused { .. }) => return Ok(Sent::Over(Outcome::InDoubt)),
                Err(CallFailed::Unknown(error)) => {
                    if silent_since.elapsed() >= config.resolve_patience {
                        tracing::warn!(error = %Chain(&error), "nobody says what became of a tool call");
                        return Ok(Sent::Over(Outcome::InDoubt));
                    }
                    interruptible(run, tokio::time::sleep(config.resolve_pause)).await?;
                }
            }
        }
    }

    /// Calls that only read.
    async fn look(&self, run: &Run, sandbox: SandboxId, tool: &BuiltIn) -> Result<Outcome, Stop> {
        let account = run.turn().account_id;
        let looked = self.patiently(run, || self.look_once(account, sandbox, tool)).await?;
        Ok(looked.unwrap_or_else(|error| unusable(&error)))
    }

    async fn look_once(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        tool: &BuiltIn,
    ) -> Result<Outcome, CallFailed> {
        match tool {
            BuiltIn::ListFiles { path } => {
                let (entries, truncated) = self.sandboxes.list_files(account, sandbox, path).await?;
                Ok(Outcome::Listed { entries, truncated })
            }
            BuiltIn::ReadFile { path } => {
                let content = self.sandboxes.read_file(account, sandbox, path).await?;
                Ok(Outcome::Read { content })
            }
            BuiltIn::Shell { .. } | BuiltIn::WriteFile { .. } => Ok(Outcome::InDoubt),
        }
    }

    /// Makes a call that may be made again, until somebody answers: a replica that ends, or an engine that
    /// restarts, is no reason for a tool to fail.
    async fn patiently<T, F: Future<Output = Result<T, CallFailed>>>(
        &self,
        run: &Run,
        call: impl Fn() -> F,
    ) -> Result<Result<T, CallFailed>, Stop> {
        let config = self.sandboxes.config();
        let silent_since = Instant::now();
        loop {
            match interruptible(run, call()).await? {
                Err(CallFailed::Unknown(_)) if silent_since.elapsed() < config.resolve_patience => {
                    interruptible(run, tokio::time::sleep(config.resolve_pause)).await?;
                }
                answered => return Ok(answered),
            }
        }
    }
}

/// What a record means for the call; `None` while it runs.
fn conclude(record: Record, tool: &BuiltIn) -> Option<Sent> {
    match record {
        Record::Running => None,
        Record::Abandoned => Some(Sent::WrittenOff),
        Record::InDoubt => Some(Sent::Over(Outcome::InDoubt)),
        Record::Finished(result) => Some(Sent::Over(finished(result, tool))),
    }
}

fn finished(result: ExecResult, tool: &BuiltIn) -> Outcome {
    match tool {
        BuiltIn::WriteFile { path, content } if result.exit_code == 0 => {
            Outcome::Wrote { path: path.clone(), bytes: content.len() }
        }
        BuiltIn::WriteFile { .. } => Outcome::Failed { message: result.stderr },
        BuiltIn::Shell { timeout, .. } => {
            // Whoever asks later knows that it was killed, not at which limit: the call says it.
            Outcome::Exec(ExecResult { timed_out: result.timed_out.map(|_| *timeout), ..result })
        }
        BuiltIn::ReadFile { .. } | BuiltIn::ListFiles { .. } => Outcome::Exec(result),
    }
}

fn unusable(error: &CallFailed) -> Outcome {
    match error {
        CallFailed::Refused { message, .. } => Outcome::Failed { message: message.clone() },
        CallFailed::Unknown(error) => {
            tracing::warn!(error = %Chain(error), "the session's sandbox cannot be reached");
            Outcome::Failed { message: "The session's sandbox cannot be reached right now.".to_owned() }
        }
    }
}

/// Does `work` unless the turn's worker has to stop first.
async fn interruptible<T>(run: &Run, work: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::select! {
        biased;
        stop = run.interrupted() => Err(stop),
        done = work => Ok(done),
    }
}
