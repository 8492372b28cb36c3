//! Client of sandbox-svc: finds a session's sandbox and runs keyed calls in it.
//!
//! A failed method returns [`CallFailed::Refused`] for an error that a retry does not change, with a text
//! that the user may see. It returns [`CallFailed::Unknown`] if sandbox-svc did not answer, or answered with
//! a retryable, internal or unreadable error; the caller must then assume that the call may have had an
//! effect.

use std::time::Duration;

use steward_proto::sandbox::v1::{
    self as proto, ExecState, FileKind, SandboxState, sandbox_service_client::SandboxServiceClient,
};
use svc_core::{
    error::{ErrorKind, Invalid, ServiceError},
    id::{AccountId, SandboxId, SessionId},
    wire::{
        client::{CallError, Caller, Peer},
        deadline::Deadline,
    },
};
use tonic::{Response, Status};

use crate::domain::{
    settings::SandboxConfig,
    tools::{Entry, EntryKind, ExecResult},
};

/// Time that a stop waits for a killed command to end.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallFailed {
    /// A retry does not change this error; the model and the user may read the text.
    #[error("refused: {message}")]
    Refused { kind: ErrorKind, message: String },
    /// sandbox-svc gave no answer, or a retryable, internal or unreadable one: the call may have had an
    /// effect.
    #[error("no answer")]
    Unknown(#[from] CallError),
}

/// sandbox-svc's record of a keyed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Running,
    Finished(ExecResult),
    /// The call did not run and never will under this key.
    Abandoned,
    /// The call may or may not have run, and sandbox-svc cannot tell.
    InDoubt,
}

/// A client of sandbox-svc; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sandboxes {
    peer: Peer,
    config: SandboxConfig,
}

impl Sandboxes {
    pub(crate) fn new(peer: Peer, config: SandboxConfig) -> Self {
        Self { peer, config }
    }

    pub(crate) fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// Returns the session's sandbox once it runs; sandbox-svc creates it if there is none.
    pub(crate) async fn ready(
        &self,
        account: AccountId,
        session: SessionId,
    ) -> Result<SandboxId, CallFailed> {
        let deadline = Deadline::after(self.config.ready_timeout);
        let mut client = self.client(account, deadline);
        let request = proto::CreateSandboxRequest { session_id: session.to_string() };
        let mut sandbox = self.answered(client.create_sandbox(request).await)?.sandbox;
        loop {
            let seen = sandbox.unwrap_or_default();
            let id =
                SandboxId::parse("sandbox_id", &seen.sandbox_id).map_err(|error| self.malformed(&error))?;
            match seen.state() {
                SandboxState::Running => return Ok(id),
                SandboxState::Requested | SandboxState::Creating if !deadline.left().is_zero() => {}
                SandboxState::Requested | SandboxState::Creating => {
                    return Err(refused("the session's sandbox did not start in time"));
                }
                SandboxState::Deleting
                | SandboxState::Gone
                | SandboxState::Failed
                | SandboxState::Unspecified => {
                    return Err(refused("the session's sandbox could not be started"));
                }
            }
            let wait = deadline.left().min(Duration::from_secs(20)).try_into().ok();
            let request = proto::GetSandboxRequest { sandbox_id: seen.sandbox_id, wait };
            sandbox = self.answered(client.get_sandbox(request).await)?.sandbox;
        }
    }

    /// Runs a command line under a key.
    pub(crate) async fn shell(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        key: &str,
        command: &str,
        timeout: Duration,
    ) -> Result<Record, CallFailed> {
        let request = proto::ExecRequest {
            sandbox_id: sandbox.to_string(),
            key: key.to_owned(),
            argv: vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()],
            timeout: timeout.try_into().ok(),
            ..proto::ExecRequest::default()
        };
        let mut client = self.client(account, Deadline::after(timeout + self.config.call_margin));
        self.record(self.answered(client.exec(request).await)?.exec, Some(timeout))
    }

    /// Writes a file under a key.
    pub(crate) async fn write_file(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        key: &str,
        path: &str,
        content: &str,
    ) -> Result<Record, CallFailed> {
        let request = proto::WriteFileRequest {
            sandbox_id: sandbox.to_string(),
            path: path.to_owned(),
            content: content.as_bytes().to_vec().into(),
            mode: 0,
            key: key.to_owned(),
        };
        let mut client = self.client(account, self.short());
        self.record(self.answered(client.write_file(request).await)?.exec, None)
    }

    pub(crate) async fn read_file(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        path: &str,
    ) -> Result<Vec<u8>, CallFailed> {
        let request = proto::ReadFileRequest { sandbox_id: sandbox.to_string(), path: path.to_owned() };
        let mut client = self.client(account, self.short());
        Ok(self.answered(client.read_file(request).await)?.content.to_vec())
    }

    /// Lists a directory. Returns true with the entries if it has more of them.
    pub(crate) async fn list_files(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        path: &str,
    ) -> Result<(Vec<Entry>, bool), CallFailed> {
        let request = proto::ListFilesRequest { sandbox_id: sandbox.to_string(), path: path.to_owned() };
        let mut client = self.client(account, self.short());
        let answer = self.answered(client.list_files(request).await)?;
        Ok((answer.entries.into_iter().map(entry).collect(), answer.truncated))
    }

    /// Returns the record of a keyed call. sandbox-svc abandons the key of a call that did not run.
    pub(crate) async fn resolve(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        key: &str,
    ) -> Result<Record, CallFailed> {
        self.ask(account, sandbox, key, self.config.resolve_wait, false).await
    }

    /// Stops a keyed call: sandbox-svc kills a running command, and abandons the key of a call that did not
    /// run.
    pub(crate) async fn stop(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        key: &str,
    ) -> Result<Record, CallFailed> {
        self.ask(account, sandbox, key, STOP_WAIT, true).await
    }

    /// Maximum duration of [`Self::stop`].
    pub(crate) fn longest_stop(&self) -> Duration {
        STOP_WAIT + self.config.call_margin
    }

    async fn ask(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        key: &str,
        wait: Duration,
        cancel: bool,
    ) -> Result<Record, CallFailed> {
        let request = proto::ResolveExecRequest {
            sandbox_id: sandbox.to_string(),
            key: key.to_owned(),
            wait: wait.try_into().ok(),
            cancel,
        };
        let mut client = self.client(account, Deadline::after(wait + self.config.call_margin));
        self.record(self.answered(client.resolve_exec(request).await)?.exec, None)
    }

    fn client(&self, account: AccountId, deadline: Deadline) -> SandboxServiceClient<Caller> {
        // Maximum bytes of a message in either direction, enough for a file of 1 MiB.
        const LARGEST: usize = 8 * 1024 * 1024;
        SandboxServiceClient::new(self.peer.acting_for(Some(account)).by(deadline))
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST)
    }

    fn short(&self) -> Deadline {
        Deadline::after(self.config.call_margin)
    }

    fn answered<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallFailed> {
        answer.map(Response::into_inner).map_err(|status| {
            let error = CallError::new(self.peer.name(), status);
            if error.is_verdict() && !error.kind().row().retryable {
                CallFailed::Refused { kind: error.kind(), message: error.public_message().into_owned() }
            } else {
                CallFailed::Unknown(error)
            }
        })
    }

    fn record(
        &self,
        record: Option<proto::ExecRecord>,
        timeout: Option<Duration>,
    ) -> Result<Record, CallFailed> {
        let record = record.unwrap_or_default();
        match record.state() {
            ExecState::Running => Ok(Record::Running),
            ExecState::Abandoned => Ok(Record::Abandoned),
            ExecState::InDoubt => Ok(Record::InDoubt),
            ExecState::Finished => {
                let ran = record.duration.and_then(|ran| Duration::try_from(ran).ok());
                Ok(Record::Finished(ExecResult {
                    exit_code: record.exit_code,
                    stdout: record.stdout,
                    stderr: record.stderr,
                    truncated: record.stdout_truncated || record.stderr_truncated,
                    timed_out: record.timed_out.then(|| timeout.or(ran).unwrap_or_default()),
                }))
            }
            ExecState::Unspecified => Err(self.malformed(&Invalid::new("exec.state", "is not set"))),
        }
    }

    /// An answer that cannot be decoded counts as no answer.
    fn malformed(&self, error: &Invalid) -> CallFailed {
        tracing::error!(peer = self.peer.name(), %error, "answer cannot be decoded");
        CallFailed::Unknown(CallError::new(self.peer.name(), Status::internal("answer cannot be decoded")))
    }
}

fn refused(message: &str) -> CallFailed {
    CallFailed::Refused { kind: ErrorKind::FailedPrecondition, message: message.to_owned() }
}

fn entry(entry: proto::FileEntry) -> Entry {
    let kind = match entry.kind() {
        FileKind::File => EntryKind::File,
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink,
        FileKind::Unspecified => EntryKind::Other,
    };
    Entry { name: entry.name, kind, bytes: u64::try_from(entry.size_bytes).unwrap_or(0) }
}
