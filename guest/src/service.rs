//! The gRPC service: checks each request, runs keyed calls on tasks of their own, answers with records.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use steward_proto::guest::v1::{
    BindRequest, BindResponse, ExecRequest, ExecResponse, FileEntry, HelloRequest, HelloResponse,
    ListFilesRequest, ListFilesResponse, ReadFileRequest, ReadFileResponse, Record, RecordState,
    ResolveRequest, ResolveResponse, WriteFileRequest, WriteFileResponse, guest_service_server::GuestService,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status};

use crate::{
    Config,
    exec::{self, Command},
    files::{self, Entry, Kind, WORKSPACE},
    limits::{ARGV_BYTES, ENV_BYTES, EXEC_TIME, LIST_ENTRIES},
    records::{self, Begin, KeyState, Outcome, Records},
};

const DEFAULT_FILE_MODE: u32 = 0o644;

#[derive(Debug)]
pub(crate) struct Guest {
    config: Config,
    instance: String,
    records: Records,
    tasks: TaskTracker,
    /// Environment variables that the last Bind request set, for every command after it.
    bound: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Guest {
    /// Builds the service; `instance` identifies this start of the guest.
    pub(crate) fn new(config: Config, instance: String) -> Self {
        let records = Records::new(config.limits);
        Self { config, instance, records, tasks: TaskTracker::new(), bound: Arc::default() }
    }

    fn check_instance(&self, instance: &str) -> Result<(), Status> {
        // The caller relies on the records of another instance, which this one does not have.
        if !instance.is_empty() && instance != self.instance {
            return Err(Status::aborted("this is another instance"));
        }
        Ok(())
    }

    /// Runs the call of `key` on a task of its own, or waits for the call that already runs. The call
    /// continues if the caller disconnects.
    async fn keyed<F>(&self, key: &str, call: impl FnOnce(CancellationToken) -> F) -> Result<Record, Status>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let state = match self.records.begin(key)? {
            Begin::New(ticket, running) => {
                let call = call(running.cancel.clone());
                self.tasks.spawn(async move { ticket.finish(call.await) });
                KeyState::Running(running)
            }
            Begin::Known(state) => state,
        };
        Ok(record(key, state, None).await)
    }

    fn command(&self, request: &ExecRequest) -> Result<Command, Status> {
        let Some((program, arguments)) = request.argv.split_first() else {
            return Err(Status::invalid_argument("argv is empty"));
        };
        if request.argv.iter().map(|argument| argument.len() + 1).sum::<usize>() > ARGV_BYTES {
            return Err(Status::out_of_range("argv is too large"));
        }
        if request.stdin.len() > self.config.limits.file_bytes {
            return Err(Status::out_of_range("stdin is too large"));
        }
        let given: BTreeMap<_, _> = request.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        check_env(&given)?;
        let mut env = inherited();
        env.extend(self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone());
        env.extend(given);
        Ok(Command {
            program: program.clone(),
            arguments: arguments.to_vec(),
            env,
            cwd: self.directory(&request.cwd),
            stdin: request.stdin.clone(),
            timeout: bounded(request.timeout, EXEC_TIME)?,
            stream_bytes: usize::try_from(request.output_limit_bytes)
                .map_or(self.config.limits.stream_bytes, |bytes| bytes.min(self.config.limits.stream_bytes)),
        })
    }

    /// Resolves the working directory. Any directory is allowed: the command could change to it by itself.
    fn directory(&self, cwd: &str) -> PathBuf {
        match Path::new(WORKSPACE).join(cwd).strip_prefix(WORKSPACE) {
            Ok(below) => self.config.roots.workspace().join(below),
            Err(_) => PathBuf::from(cwd),
        }
    }
}

#[tonic::async_trait]
impl GuestService for Guest {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sandbox_id: self.config.sandbox_id.clone(),
            generation: self.config.generation,
            instance: self.instance.clone(),
        }))
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindResponse>, Status> {
        let env: BTreeMap<_, _> = request.into_inner().env.into_iter().collect();
        check_env(&env)?;
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = env;
        Ok(Response::new(BindResponse {}))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        let request = request.into_inner();
        self.check_instance(&request.instance)?;
        let command = self.command(&request)?;
        let tasks = self.tasks.clone();
        let record = self
            .keyed(&request.key, |canceled| async move { exec::run(command, &canceled, &tasks).await })
            .await?;
        Ok(Response::new(ExecResponse { record: Some(record) }))
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let request = request.into_inner();
        self.check_instance(&request.instance)?;
        let wait = bounded(request.wait, Duration::ZERO)?;
        let state = self.records.resolve(&request.key)?;
        if let (true, KeyState::Running(running)) = (request.cancel, &state) {
            running.cancel.cancel();
        }
        let record = record(&request.key, state, Some(Instant::now() + wait)).await;
        Ok(Response::new(ResolveResponse { record: Some(record) }))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let request = request.into_inner();
        let located = self.config.roots.locate(&request.path)?;
        let max = u64::try_from(self.config.limits.file_bytes).unwrap_or(u64::MAX);
        let limit = request.limit_bytes.min(max);
        let content = blocking(move || located.read(limit)).await??;
        Ok(Response::new(ReadFileResponse { content }))
    }

    async fn write_file(
        &self,
        request: Request<WriteFileRequest>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let WriteFileRequest { key, path, content, mode, instance } = request.into_inner();
        self.check_instance(&instance)?;
        if content.len() > self.config.limits.file_bytes {
            return Err(Status::out_of_range("the file is too large"));
        }
        let located = self.config.roots.locate_writable(&path)?;
        let mode = if mode == 0 { DEFAULT_FILE_MODE } else { mode & 0o777 };
        if !self.records.contains(&key) {
            let target = located.clone();
            match blocking(move || target.check_free()).await? {
                // After an unexpected error of the check, the write is tried nevertheless. If the write fails
                // too, its record has the reason.
                Ok(()) | Err(files::Error::Other(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A write is not canceled, because it takes only milliseconds.
        let write = |_canceled| async move {
            let started = Instant::now();
            let outcome = match blocking(move || located.write(&content, mode)).await {
                Ok(Ok(())) => Outcome::default(),
                Ok(Err(error)) => Outcome::failure(1, &format!("{path}: {error}")),
                Err(status) => Outcome::failure(1, status.message()),
            };
            Outcome { duration: started.elapsed(), ..outcome }
        };
        let record = self.keyed(&key, write).await?;
        Ok(Response::new(WriteFileResponse { record: Some(record) }))
    }

    async fn list_files(
        &self,
        request: Request<ListFilesRequest>,
    ) -> Result<Response<ListFilesResponse>, Status> {
        let request = request.into_inner();
        let located = self.config.roots.locate(&request.path)?;
        let limit = usize::try_from(request.limit).map_or(LIST_ENTRIES, |limit| limit.min(LIST_ENTRIES));
        let (entries, truncated) = blocking(move || located.list(limit)).await??;
        let entries = entries.into_iter().map(file_entry).collect();
        Ok(Response::new(ListFilesResponse { entries, truncated }))
    }
}

/// Returns the environment of every command: three variables that Docker set for the container, and no other
/// variable of the guest.
fn inherited() -> BTreeMap<String, String> {
    ["PATH", "HOME", "LANG"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), env::var(name).ok()?)))
        .collect()
}

fn bounded(asked: Option<prost_types::Duration>, default: Duration) -> Result<Duration, Status> {
    match asked.map(Duration::try_from) {
        None => Ok(default),
        Some(Ok(asked)) => Ok(asked.min(EXEC_TIME)),
        Some(Err(_)) => Err(Status::invalid_argument("a duration is negative")),
    }
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), Status> {
    match env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() {
        0..=ENV_BYTES => Ok(()),
        _ => Err(Status::out_of_range("env is too large")),
    }
}

/// Returns the record of `key`; waits for a running call until `until`, or until it ends.
async fn record(key: &str, state: KeyState, until: Option<Instant>) -> Record {
    let with_state =
        |state: RecordState| Record { key: key.to_owned(), state: state.into(), ..Record::default() };
    let outcome = match state {
        KeyState::Abandoned => return with_state(RecordState::Abandoned),
        KeyState::Finished(outcome) => outcome,
        KeyState::Running(running) => match running.ended(until).await {
            Some(outcome) => outcome,
            None => return with_state(RecordState::Running),
        },
    };
    Record {
        exit_code: outcome.exit_code,
        stdout: outcome.stdout.bytes.clone(),
        stderr: outcome.stderr.bytes.clone(),
        stdout_truncated: outcome.stdout.truncated,
        stderr_truncated: outcome.stderr.truncated,
        timed_out: outcome.timed_out,
        duration: outcome.duration.try_into().ok(),
        ..with_state(RecordState::Finished)
    }
}

impl From<records::Error> for Status {
    fn from(error: records::Error) -> Self {
        Self::resource_exhausted(error.to_string())
    }
}

impl From<files::Error> for Status {
    fn from(error: files::Error) -> Self {
        let code = match error {
            files::Error::BadPath(_) => Code::InvalidArgument,
            files::Error::NotFound => Code::NotFound,
            files::Error::Symlink | files::Error::WrongKind(_) => Code::FailedPrecondition,
            files::Error::TooLarge => Code::OutOfRange,
            files::Error::Denied => Code::PermissionDenied,
            files::Error::NoSpace => Code::ResourceExhausted,
            files::Error::Other(_) => Code::Unknown,
        };
        Self::new(code, error.to_string())
    }
}

fn file_entry(entry: Entry) -> FileEntry {
    FileEntry {
        name: entry.name,
        kind: match entry.kind {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Other => "other",
        }
        .to_owned(),
        size_bytes: entry.size_bytes,
        mode: entry.mode,
        modified_at: Some(entry.modified.into()),
    }
}

/// Runs file work on a blocking thread. Fails only while the runtime stops.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::unavailable("the guest is stopping"))
}
