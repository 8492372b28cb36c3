//! Client of the guest in a sandbox: connects to its socket, makes calls, and checks its answers.
//!
//! A process in the sandbox may have put any file into the run directory. So the directory and the socket are
//! opened without following links, the file must be a socket, and the connection goes through its descriptor
//! (`/proc/self/fd/N`), which no rename can redirect. Every call has a deadline, every message a maximum
//! size, and an answer is accepted only if it matches the request.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use chrono::DateTime;
use hyper_util::rt::TokioIo;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};
use steward_proto::guest::v1::{self as wire, RecordState, guest_service_client::GuestServiceClient};
use svc_core::id::SandboxId;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tracing::Instrument;

use crate::domain::{
    exec::{CONTENT_BYTES, Command, ExecState, Outcome, Record, ResolveOptions, Write},
    files::{Entry, EntryKind, Listing},
};

/// Name of the socket in the run directory.
const SOCKET: &str = "guest.sock";
/// Maximum bytes of a message, because the guest accepts no larger one.
const MESSAGE_BYTES: usize = 4 << 20;
/// Maximum bytes of an answer's headers, because the guest is not trusted. Its error texts are short.
const HEADER_BYTES: u32 = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time allowed for the answer beyond the time that the guest has for the work.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// Timeout of a call that waits for no command.
const SHORT_CALL: Duration = Duration::from_secs(10);
/// Maximum bytes of a file's name: Linux allows 255, and the character that replaces an invalid byte has
/// three.
const NAME_BYTES: usize = 255 * 3;

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run directory is missing or is no directory.
    #[error("run directory cannot be opened")]
    RunDirectory(#[source] io::Error),
    /// The run directory has no socket yet.
    #[error("guest's socket is missing")]
    NoSocket,
    /// A process in the sandbox replaced the socket with something else.
    #[error("guest's socket is not a socket")]
    NotASocket,
    /// The connection failed or broke: the call may or may not have happened.
    #[error("guest cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The guest gave no answer in time: the call may have happened, or may still happen.
    #[error("guest did not answer in time")]
    TimedOut,
    /// The guest refused the call and did nothing.
    #[error("guest refused the call ({why:?}): {message}")]
    Refused {
        why: Refusal,
        /// Error message of the guest, truncated. It is only shown to the caller.
        message: String,
    },
    /// Another guest instance answers, which does not have the records of the requested one.
    #[error("guest restarted and lost its records")]
    OtherInstance,
    /// The answer contradicts the request or the protocol.
    #[error("guest sent an invalid answer: {0}")]
    InvalidAnswer(&'static str),
}

/// Why a guest refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is wrong.
    Invalid,
    /// The path of a file call is wrong.
    BadPath,
    NotFound,
    /// The file is larger than allowed.
    TooLarge,
    /// The user of the sandbox has no permission.
    Denied,
    /// The path contains a symbolic link, or names an object of the wrong kind.
    NotUsable,
    /// Too many calls run, or the guest has no room for another key.
    Busy,
}

/// Names a keyed call to a guest.
#[derive(Debug, Clone, Copy)]
pub struct Keyed<'a> {
    pub key: &'a str,
    /// The guest instance that may answer; empty means any.
    pub instance: &'a str,
}

/// A connection to one guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guest(GuestServiceClient<Channel>);

impl Guest {
    /// Connects to the guest of `run_dir`.
    ///
    /// # Errors
    /// [`Error::NoSocket`] until the guest has started; [`Error::RunDirectory`] if the directory is missing,
    /// for example revoked, or cannot be opened; [`Error::NotASocket`] if a process in the sandbox replaced
    /// the socket; [`Error::Unreachable`] if the socket does not answer.
    pub async fn connect(run_dir: &Path) -> Result<Self, Error> {
        let socket = Arc::new(open_socket(run_dir)?);
        let connector = tower::service_fn(move |_| {
            let socket = Arc::clone(&socket);
            async move {
                UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://guest")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(HEADER_BYTES)
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::Unreachable(error.into()))?;
        let client = GuestServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Ok(Self(client))
    }

    /// Returns the id that the guest chose at its start, if it was started for this generation of the
    /// sandbox. A guest that is started again has another id and none of the earlier records.
    pub async fn instance(&self, sandbox: SandboxId, generation: i64) -> Result<Option<String>, Error> {
        let request = within(wire::HelloRequest {}, SHORT_CALL);
        let hello = accepted(bounded(SHORT_CALL, self.0.clone().hello(request)).await)?;
        let same = hello.sandbox_id == sandbox.to_string() && hello.generation == generation;
        match hello.instance.len() {
            1..=64 => Ok(same.then_some(hello.instance)),
            _ => Err(Error::InvalidAnswer("an instance without a name")),
        }
    }

    /// Runs a command and waits for its end; the guest kills it at its timeout.
    pub async fn exec(&self, call: Keyed<'_>, command: Command) -> Result<Record, Error> {
        let deadline = command.timeout + ANSWER_MARGIN;
        let request = wire::ExecRequest {
            key: call.key.to_owned(),
            argv: command.argv,
            stdin: command.stdin,
            cwd: command.cwd,
            env: command.env.into_iter().collect(),
            timeout: command.timeout.try_into().ok(),
            output_limit_bytes: u32::try_from(CONTENT_BYTES).unwrap_or(u32::MAX),
            instance: call.instance.to_owned(),
        };
        let answer = traced("Exec", deadline, self.0.clone().exec(within(request, deadline))).await?;
        record(answer.record, call.key)
    }

    /// Returns the record of a key, after waiting at most `options.wait` for its end. The guest abandons a
    /// key that it does not know: a call that arrives later under it never runs.
    pub async fn resolve(&self, call: Keyed<'_>, options: ResolveOptions) -> Result<Record, Error> {
        let deadline = options.wait + ANSWER_MARGIN;
        let request = wire::ResolveRequest {
            key: call.key.to_owned(),
            wait: options.wait.try_into().ok(),
            instance: call.instance.to_owned(),
            cancel: options.cancel,
        };
        let answer = traced("Resolve", deadline, self.0.clone().resolve(within(request, deadline))).await?;
        record(answer.record, call.key)
    }

    /// Writes a whole file.
    pub async fn write_file(&self, call: Keyed<'_>, write: Write) -> Result<Record, Error> {
        let request = wire::WriteFileRequest {
            key: call.key.to_owned(),
            path: write.path,
            content: write.content,
            mode: write.mode,
            instance: call.instance.to_owned(),
        };
        let request = within(request, SHORT_CALL);
        let answer = file_call("WriteFile", self.0.clone().write_file(request)).await?;
        record(answer.record, call.key)
    }

    /// Reads a file of at most `limit` bytes.
    pub async fn read_file(&self, path: String, limit: usize) -> Result<bytes::Bytes, Error> {
        let limit_bytes = u64::try_from(limit).unwrap_or(u64::MAX);
        let request = within(wire::ReadFileRequest { path, limit_bytes }, SHORT_CALL);
        let answer = file_call("ReadFile", self.0.clone().read_file(request)).await?;
        match answer.content.len() <= limit {
            true => Ok(answer.content),
            false => Err(Error::InvalidAnswer("more bytes than requested")),
        }
    }

    /// Lists a directory's first `limit` entries by name.
    pub async fn list_files(&self, path: String, limit: u32) -> Result<Listing, Error> {
        let request = within(wire::ListFilesRequest { path, limit }, SHORT_CALL);
        let answer = file_call("ListFiles", self.0.clone().list_files(request)).await?;
        if u32::try_from(answer.entries.len()).is_ok_and(|entries| entries <= limit) {
            let entries = answer.entries.into_iter().map(entry).collect::<Result<_, _>>()?;
            return Ok(Listing { entries, truncated: answer.truncated });
        }
        Err(Error::InvalidAnswer("more entries than requested"))
    }
}

/// Opens the socket without following links, so that a link in the run directory leads to no other file.
fn open_socket(run_dir: &Path) -> Result<OwnedFd, Error> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let run_dir = rustix::fs::openat(CWD, run_dir, directory, Mode::empty())
        .map_err(|errno| Error::RunDirectory(errno.into()))?;
    let no_follow = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket =
        rustix::fs::openat(&run_dir, SOCKET, no_follow, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => Error::NoSocket,
            other => Error::RunDirectory(other.into()),
        })?;
    let stat = rustix::fs::fstat(&socket).map_err(|errno| Error::RunDirectory(errno.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => Ok(socket),
        _ => Err(Error::NotASocket),
    }
}

fn within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Ends a call after `deadline`. The timeout that a request carries applies only until the answer begins, and
/// a process that replaced the guest could begin an answer and never end it.
async fn bounded<T>(deadline: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let over = || Status::deadline_exceeded("the guest did not answer in time");
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(over()))
}

/// Makes a call in a client span of the caller's trace. The guest receives no trace context: it is not
/// trusted.
async fn traced<T>(
    method: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    let method = format!("steward.guest.v1.GuestService/{method}");
    let span = tracing::info_span!(
        "rpc.client",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        server.address = "guest",
        rpc.response.status_code = tracing::field::Empty,
    );
    let answer = bounded(deadline, call).instrument(span.clone()).await;
    let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    span.record("rpc.response.status_code", format!("{code:?}"));
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
    accepted(answer)
}

/// Makes a file call. An invalid request becomes [`Refusal::BadPath`], because the path is the only field of
/// a file call that the guest checks.
async fn file_call<T>(
    method: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    traced(method, SHORT_CALL, call).await.map_err(|error| match error {
        Error::Refused { why: Refusal::Invalid, message } => {
            Error::Refused { why: Refusal::BadPath, message }
        }
        other => other,
    })
}

fn accepted<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Error> {
    let status = match answer {
        Ok(response) => return Ok(response.into_inner()),
        Err(status) => status,
    };
    let message = status.message().chars().take(300).collect();
    let refused = |why| Err(Error::Refused { why, message });
    // The guest refuses a call before it records its key.
    match status.code() {
        Code::InvalidArgument => refused(Refusal::Invalid),
        Code::NotFound => refused(Refusal::NotFound),
        Code::OutOfRange => refused(Refusal::TooLarge),
        Code::PermissionDenied => refused(Refusal::Denied),
        Code::FailedPrecondition => refused(Refusal::NotUsable),
        Code::ResourceExhausted => refused(Refusal::Busy),
        Code::Aborted => Err(Error::OtherInstance),
        Code::DeadlineExceeded | Code::Cancelled => Err(Error::TimedOut),
        Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Err(Error::Unreachable(status.into())),
    }
}

fn record(record: Option<wire::Record>, key: &str) -> Result<Record, Error> {
    let record = record.ok_or(Error::InvalidAnswer("no record"))?;
    if record.key != key {
        return Err(Error::InvalidAnswer("a record of another key"));
    }
    let (state, outcome) = match record.state() {
        RecordState::Unspecified => return Err(Error::InvalidAnswer("a record without a state")),
        RecordState::Finished if record.stdout.len().max(record.stderr.len()) > CONTENT_BYTES => {
            return Err(Error::InvalidAnswer("more output than requested"));
        }
        RecordState::Running => (ExecState::Running, None),
        RecordState::Abandoned => (ExecState::Abandoned, None),
        RecordState::Finished => (ExecState::Finished, Some(outcome(record))),
    };
    Ok(Record { key: key.to_owned(), state, outcome })
}

fn outcome(record: wire::Record) -> Outcome {
    Outcome {
        exit_code: record.exit_code,
        stdout: record.stdout.into(),
        stderr: record.stderr.into(),
        stdout_truncated: record.stdout_truncated,
        stderr_truncated: record.stderr_truncated,
        timed_out: record.timed_out,
        duration: record.duration.and_then(|duration| duration.try_into().ok()).unwrap_or_default(),
    }
}

fn entry(entry: wire::FileEntry) -> Result<Entry, Error> {
    if entry.name.len() > NAME_BYTES || entry.name.contains(['/', '\0']) {
        return Err(Error::InvalidAnswer("an impossible file name"));
    }
    let kind = match entry.kind.as_str() {
        "file" => EntryKind::File,
        "directory" => EntryKind::Directory,
        "symlink" => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let modified_at =
        entry.modified_at.and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.try_into().ok()?));
    Ok(Entry { name: entry.name, kind, size_bytes: entry.size_bytes, mode: entry.mode & 0o7777, modified_at })
}
