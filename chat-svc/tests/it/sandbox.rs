//! A fake sandbox-svc for tests: it executes a call with a key once, records which calls ran, and can lose
//! its answers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use steward_proto::sandbox::v1::{
    self as proto, ExecRecord, ExecState, Sandbox, SandboxState,
    sandbox_service_server::{SandboxService, SandboxServiceServer},
};
use svc_core::{error::ErrorKind, id::SandboxId};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// State of the fake.
#[derive(Default)]
struct State {
    records: HashMap<String, ExecRecord>,
    /// Keys in the order in which they ran.
    ran: Vec<String>,
    /// While set, calls arrive, but do not run and get no answer.
    swallow: bool,
    /// While set, the answers of calls that ran are lost.
    lose_answers: bool,
    /// While set, calls start, their answers are lost at once, and they run without end.
    run_endlessly: bool,
    /// While set, calls arrive, are not recorded, and their answers are lost.
    forget: bool,
    /// Number of ResolveExec calls.
    asked: usize,
    /// Keys that were canceled.
    stopped: Vec<String>,
    /// Duration of a command.
    takes: Duration,
    /// ResolveExec fails, as if its answer was lost.
    mute: bool,
}

#[derive(Clone)]
pub(crate) struct FakeSandbox {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    _server: Arc<JoinHandle<()>>,
}

impl FakeSandbox {
    #[expect(clippy::disallowed_methods, reason = "a peer of the test, not a task of the service")]
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let arrived = Arc::new(Notify::new());
        let served = Served { state: state.clone(), arrived: arrived.clone(), sandbox_id: SandboxId::new() };
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(SandboxServiceServer::new(served))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address, state, arrived, _server: Arc::new(server) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until a call has arrived.
    pub(crate) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn lose_answers(&self, lose: bool) {
        self.state.lock().unwrap().lose_answers = lose;
    }

    pub(crate) fn swallow(&self, swallow: bool) {
        self.state.lock().unwrap().swallow = swallow;
    }

    pub(crate) fn run_endlessly(&self) {
        self.state.lock().unwrap().run_endlessly = true;
    }

    pub(crate) fn forget(&self) {
        self.state.lock().unwrap().forget = true;
    }

    /// Number of ResolveExec calls.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    pub(crate) fn mute(&self, mute: bool) {
        self.state.lock().unwrap().mute = mute;
    }

    /// Returns the keys for which a cancel was received while `mute` was not set.
    pub(crate) fn stopped(&self) -> Vec<String> {
        self.state.lock().unwrap().stopped.clone()
    }

    pub(crate) fn commands_take(&self, takes: Duration) {
        self.state.lock().unwrap().takes = takes;
    }

    /// Keys of the calls that ran, in order.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.state.lock().unwrap().ran.clone()
    }
}

struct Served {
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    sandbox_id: SandboxId,
}

fn lost() -> Status {
    Status::unavailable("connection reset")
}

fn finished(key: &str, stdout: String) -> ExecRecord {
    ExecRecord { key: key.to_owned(), state: ExecState::Finished.into(), stdout, ..ExecRecord::default() }
}

impl Served {
    fn sandbox(&self, session_id: String) -> Sandbox {
        Sandbox {
            sandbox_id: self.sandbox_id.to_string(),
            session_id,
            state: SandboxState::Running.into(),
            ..Sandbox::default()
        }
    }

    /// Executes a call with this key once, also if it is sent again.
    async fn once(&self, key: &str, stdout: String) -> Result<ExecRecord, Status> {
        let (takes, swallow) = {
            let mut state = self.state.lock().unwrap();
            self.arrived.notify_one();
            if let Some(record) = state.records.get(key) {
                if record.state() == ExecState::Abandoned {
                    return Err(svc_core::error::status(
                        ErrorKind::FailedPrecondition,
                        "EXEC_ABANDONED",
                        "this call was written off",
                        None,
                        &[],
                    ));
                }
                return Ok(record.clone());
            }
            if state.forget {
                return Err(lost());
            }
            if !state.swallow {
                let running = ExecRecord { state: ExecState::Running.into(), ..finished(key, String::new()) };
                state.records.insert(key.to_owned(), running);
                state.ran.push(key.to_owned());
            }
            if state.run_endlessly {
                return Err(lost());
            }
            (state.takes, state.swallow)
        };
        if swallow {
            return std::future::pending().await;
        }
        let (state, key) = (self.state.clone(), key.to_owned());
        // The call keeps running without its caller, as a command in a container does.
        #[expect(clippy::disallowed_methods, reason = "a peer of the test, not a task of the service")]
        let work = tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            let record = finished(&key, stdout);
            state.lock().unwrap().records.insert(key, record.clone());
            record
        });
        let record = work.await.unwrap();
        if self.state.lock().unwrap().lose_answers { Err(lost()) } else { Ok(record) }
    }
}

#[tonic::async_trait]
impl SandboxService for Served {
    async fn create_sandbox(
        &self,
        request: Request<proto::CreateSandboxRequest>,
    ) -> Result<Response<proto::CreateSandboxResponse>, Status> {
        let sandbox = self.sandbox(request.into_inner().session_id);
        Ok(Response::new(proto::CreateSandboxResponse { sandbox: Some(sandbox) }))
    }

    async fn get_sandbox(
        &self,
        _: Request<proto::GetSandboxRequest>,
    ) -> Result<Response<proto::GetSandboxResponse>, Status> {
        Ok(Response::new(proto::GetSandboxResponse { sandbox: Some(self.sandbox(String::new())) }))
    }

    async fn list_sandboxes(
        &self,
        _: Request<proto::ListSandboxesRequest>,
    ) -> Result<Response<proto::ListSandboxesResponse>, Status> {
        Err(Status::unimplemented("not asked by chat-svc"))
    }

    async fn delete_sandbox(
        &self,
        _: Request<proto::DeleteSandboxRequest>,
    ) -> Result<Response<proto::DeleteSandboxResponse>, Status> {
        Err(Status::unimplemented("not asked by chat-svc"))
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecResponse>, Status> {
        let request = request.into_inner();
        let stdout = format!("ran {}\n", request.argv.join(" "));
        let record = self.once(&request.key, stdout).await?;
        Ok(Response::new(proto::ExecResponse { exec: Some(record) }))
    }

    async fn resolve_exec(
        &self,
        request: Request<proto::ResolveExecRequest>,
    ) -> Result<Response<proto::ResolveExecResponse>, Status> {
        let proto::ResolveExecRequest { key, cancel, .. } = request.into_inner();
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        if state.mute {
            return Err(lost());
        }
        if cancel {
            state.stopped.push(key.clone());
        }
        let record = state.records.entry(key.clone()).or_insert_with(|| ExecRecord {
            key,
            state: ExecState::Abandoned.into(),
            ..ExecRecord::default()
        });
        if cancel && record.state() == ExecState::Running {
            record.set_state(ExecState::Finished);
            record.exit_code = 137;
        }
        Ok(Response::new(proto::ResolveExecResponse { exec: Some(record.clone()) }))
    }

    async fn read_file(
        &self,
        request: Request<proto::ReadFileRequest>,
    ) -> Result<Response<proto::ReadFileResponse>, Status> {
        let content = format!("content of {}", request.into_inner().path).into_bytes().into();
        Ok(Response::new(proto::ReadFileResponse { content }))
    }

    async fn write_file(
        &self,
        request: Request<proto::WriteFileRequest>,
    ) -> Result<Response<proto::WriteFileResponse>, Status> {
        let record = self.once(&request.into_inner().key, String::new()).await?;
        Ok(Response::new(proto::WriteFileResponse { exec: Some(record) }))
    }

    async fn list_files(
        &self,
        _: Request<proto::ListFilesRequest>,
    ) -> Result<Response<proto::ListFilesResponse>, Status> {
        let entry = proto::FileEntry { name: "notes.txt".to_owned(), size_bytes: 3, ..Default::default() };
        Ok(Response::new(proto::ListFilesResponse { entries: vec![entry], truncated: false }))
    }
}
