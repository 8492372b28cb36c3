//! The host's side of the guest: how its socket is reached and what is believed of what it says.
//!
//! Everything in a run directory may have been put there by what runs in the sandbox. So the directory is opened
//! without following links, the socket likewise and only if it is a socket, and the connection goes through that
//! very descriptor (`/proc/self/fd/N`): nothing in there can lead elsewhere. Every call has a deadline and every
//! message a size, and an answer is used only if it is about what was asked.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};
use steward_proto::guest::v1::{
    BindRequest, ExecRequest, FileEntry, HelloRequest, HelloResponse, ListFilesRequest, ReadFileRequest,
    Record, RecordState, ResolveRequest, WriteFileRequest, guest_service_client::GuestServiceClient,
};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tracing::Instrument;

/// Name of the socket in the run directory.
const SOCKET: &str = "guest.sock";
/// The guest's own bound on messages.
const MESSAGE_BYTES: usize = 4 << 20;
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Time an answer may take beyond what the guest was given for the work.
const SLACK: Duration = Duration::from_secs(5);
/// Deadline of calls that wait for nothing.
const QUICK: Duration = Duration::from_secs(10);

/// Why the guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run directory is not there (any more), or is no directory.
    #[error("run directory cannot be opened")]
    RunDirectory(#[source] io::Error),
    /// There is no socket yet.
    #[error("guest's socket is not there")]
    NoSocket,
    /// What is in the socket's place is no socket: a sandbox that tries something.
    #[error("guest's socket is not a socket")]
    NotASocket,
    /// It could not be reached, or the connection broke: it may have done it or not.
    #[error("guest cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer in time: it may have done it, or do it yet.
    #[error("guest did not answer in time")]
    TimedOut,
    /// It refused the call and did nothing.
    #[error("guest refused the call ({why:?}): {message}")]
    Refused {
        /// Why.
        why: Refusal,
        /// What it says, cut; for the caller, never for a decision.
        message: String,
    },
    /// It is not the instance that was asked for: that one's records are lost.
    #[error("guest was started anew")]
    OtherInstance,
    /// It answered something that cannot be.
    #[error("guest sent an answer that makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Why a guest refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is wrong.
    Invalid,
    /// There is no such file.
    NotFound,
    /// Something is larger than it may be.
    TooLarge,
    /// The user of the sandbox may not.
    Denied,
    /// It is something else than was asked for.
    NotUsable,
    /// Too much runs already, or there is no room.
    Busy,
}

impl Error {
    /// Whether it is certain that the call did not happen and never will.
    #[must_use]
    pub const fn nothing_happened(&self) -> bool {
        match self {
            Self::RunDirectory(_)
            | Self::NoSocket
            | Self::NotASocket
            | Self::Refused { .. }
            | Self::OtherInstance => true,
            Self::Unreachable(_) | Self::TimedOut | Self::Nonsense(_) => false,
        }
    }
}

/// A connection to one guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guest(GuestServiceClient<Channel>);

impl Guest {
    /// Connects to the guest of `run_dir`.
    ///
    /// # Errors
    /// [`Error`] says what is in the way.
    pub async fn connect(run_dir: &Path) -> Result<Self, Error> {
        let socket = Arc::new(open_socket(run_dir)?);
        let connector = tower::service_fn(move |_| {
            let socket = Arc::clone(&socket);
            async move {
                UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://guest")
            .connect_timeout(CONNECT_DEADLINE)
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::Unreachable(error.into()))?;
        let client = GuestServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Ok(Self(client))
    }

    /// Who answers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hello(&self) -> Result<HelloResponse, Error> {
        let hello = answered(ended_by(QUICK, self.0.clone().hello(within(HelloRequest {}, QUICK))).await)?;
        match hello.instance.len() {
            1..=64 => Ok(hello),
            _ => Err(Error::Nonsense("an instance without a name")),
        }
    }

    /// Sets the environment of later commands.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn bind(&self, request: BindRequest) -> Result<(), Error> {
        traced("Bind", QUICK, self.0.clone().bind(within(request, QUICK))).await.map(drop)
    }

    /// Runs a command and waits for its end, which the guest brings about after `timeout`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn exec(&self, request: ExecRequest, timeout: Duration) -> Result<Record, Error> {
        let key = request.key.clone();
        let deadline = timeout + SLACK;
        let answer = traced("Exec", deadline, self.0.clone().exec(within(request, deadline))).await?;
        checked(answer.record, &key)
    }

    /// Asks what became of a key, waiting at most `wait` for its end; an unknown key is written off.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve(&self, request: ResolveRequest, wait: Duration) -> Result<Record, Error> {
        let key = request.key.clone();
        let request = ResolveRequest { wait: wait.try_into().ok(), ..request };
        let deadline = wait + SLACK;
        let answer = traced("Resolve", deadline, self.0.clone().resolve(within(request, deadline))).await?;
        checked(answer.record, &key)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read_file(&self, path: String, limit: usize) -> Result<bytes::Bytes, Error> {
        let limit_bytes = u64::try_from(limit).unwrap_or(u64::MAX);
        let request = ReadFileRequest { path, limit_bytes };
        let answer = traced("ReadFile", QUICK, self.0.clone().read_file(within(request, QUICK))).await?;
        match answer.content.len() <= limit {
            true => Ok(answer.content),
            false => Err(Error::Nonsense("more bytes than asked for")),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn write_file(&self, request: WriteFileRequest) -> Result<Record, Error> {
        let key = request.key.clone();
        let answer = traced("WriteFile", QUICK, self.0.clone().write_file(within(request, QUICK))).await?;
        checked(answer.record, &key)
    }

    /// Lists a directory: at most `limit` entries, and whether there were more.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list_files(&self, path: String, limit: u32) -> Result<(Vec<FileEntry>, bool), Error> {
        let request = within(ListFilesRequest { path, limit }, QUICK);
        let answer = traced("ListFiles", QUICK, self.0.clone().list_files(request)).await?;
        match u32::try_from(answer.entries.len()).is_ok_and(|entries| entries <= limit) {
            true => Ok((answer.entries, answer.truncated)),
            false => Err(Error::Nonsense("more entries than asked for")),
        }
    }
}

/// Opens the socket itself, wherever its directory may lead by now.
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

/// Gives up a call when its deadline is over. The deadline that a request carries ends with the answer's first bytes,
/// and whoever took the guest's place could send those alone.
async fn ended_by<T>(deadline: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let over = || Status::deadline_exceeded("the guest did not answer in time");
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(over()))
}

/// Makes a call as a client span of whoever it is made for. The guest itself is shown nothing: it is not trusted.
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
    let answer = ended_by(deadline, call).instrument(span.clone()).await;
    let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    span.record("rpc.response.status_code", format!("{code:?}"));
    if code != Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
    answered(answer)
}

fn answered<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Error> {
    let status = match answer {
        Ok(response) => return Ok(response.into_inner()),
        Err(status) => status,
    };
    let message = status.message().chars().take(300).collect();
    let refused = |why| Err(Error::Refused { why, message });
    // The guest's own refusals are made before anything is recorded.
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

fn checked(record: Option<Record>, key: &str) -> Result<Record, Error> {
    let record = record.ok_or(Error::Nonsense("no record"))?;
    match record.key == key && record.state() != RecordState::Unspecified {
        true => Ok(record),
        false => Err(Error::Nonsense("a record of something else")),
    }
}
