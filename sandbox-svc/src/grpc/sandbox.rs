//! `SandboxService`: sandboxes, what is run in them, and their files.

use steward_proto::sandbox::v1::{
    self as proto,
    sandbox_service_server::{SandboxService, SandboxServiceServer},
};
use svc_core::{
    data::idempotency,
    id::{AccountId, SandboxId, SessionId},
    wire::{error::to_status, principal::PrincipalKind},
};
use tonic::{Request, Response, Status};

use super::{caller, convert, status};
use crate::{
    app::{
        Shared,
        execs::{self, Question},
        files, lifecycle, provision,
    },
    client::chat::Sessions,
    domain::exec::{Call, Command, Key, Record, Write, check_path},
    error::Error,
};

/// Serves `SandboxService`.
#[derive(Debug, Clone)]
pub struct SandboxHandler {
    ctx: Shared,
    sessions: Sessions,
}

impl SandboxHandler {
    /// Serves these use cases; `sessions` says whose a session is that was never met here.
    #[must_use]
    pub const fn new(ctx: Shared, sessions: Sessions) -> Self {
        Self { ctx, sessions }
    }

    async fn call(&self, account: AccountId, id: SandboxId, key: Key, call: Call) -> Result<Record, Status> {
        let of_request = key.is_of_request();
        execs::call(&self.ctx, account, id, key, call).await.map_err(|error| match error {
            // In the words of the header that the caller sent.
            Error::KeyReused if of_request => to_status(&idempotency::Error::Reused),
            other => status(other),
        })
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> SandboxServiceServer<Self> {
        SandboxServiceServer::new(self)
    }
}

/// The key of a call: the one in its message, else one made of its `idempotency-key`, else a new one.
fn call_key<T>(method: &str, request: &Request<T>, given: &str) -> Result<Key, Status> {
    match idempotency::Key::from_metadata(request.metadata()).map_err(status)? {
        Some(header) if given.is_empty() => Ok(Key::of_request(method, &header)),
        Some(_) | None => Key::parse_or_new(given.to_owned()).map_err(status),
    }
}

fn sandbox_id(text: &str) -> Result<SandboxId, Status> {
    SandboxId::parse("sandbox_id", text).map_err(status)
}

#[tonic::async_trait]
impl SandboxService for SandboxHandler {
    async fn create_sandbox(
        &self,
        request: Request<proto::CreateSandboxRequest>,
    ) -> Result<Response<proto::CreateSandboxResponse>, Status> {
        let caller = caller(&request)?;
        let account = caller.account_id().map_err(status)?;
        let session = SessionId::parse("session_id", &request.get_ref().session_id).map_err(status)?;
        // A service of the plane knows whose session it works for. Anybody else's word would make the session theirs.
        if caller.kind != PrincipalKind::Service
            && !provision::is_known(&self.ctx, account, session).await.map_err(status)?
        {
            let theirs = self.sessions.has(account, session).await.map_err(|error| to_status(&error))?;
            if !theirs {
                return Err(status(Error::SessionNotFound));
            }
        }
        let view = provision::create(&self.ctx, account, session).await.map_err(status)?;
        Ok(Response::new(proto::CreateSandboxResponse { sandbox: Some(view.into()) }))
    }

    async fn get_sandbox(
        &self,
        request: Request<proto::GetSandboxRequest>,
    ) -> Result<Response<proto::GetSandboxResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let wait = convert::wait(request.wait).map_err(status)?;
        let view = lifecycle::get(&self.ctx, account, id, wait).await.map_err(status)?;
        Ok(Response::new(proto::GetSandboxResponse { sandbox: Some(view.into()) }))
    }

    async fn list_sandboxes(
        &self,
        request: Request<proto::ListSandboxesRequest>,
    ) -> Result<Response<proto::ListSandboxesResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let session = Some(request.session_id.as_str()).filter(|id| !id.is_empty());
        let session = session.map(|id| SessionId::parse("session_id", id)).transpose().map_err(status)?;
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page =
            lifecycle::list(&self.ctx, account, session, size, &request.page_token).await.map_err(status)?;
        let next_page_token = page.next_page_token;
        let sandboxes = page.items.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListSandboxesResponse { sandboxes, next_page_token }))
    }

    async fn delete_sandbox(
        &self,
        request: Request<proto::DeleteSandboxRequest>,
    ) -> Result<Response<proto::DeleteSandboxResponse>, Status> {
        let caller = caller(&request)?;
        let account = caller.account_id().map_err(status)?;
        let id = sandbox_id(&request.get_ref().sandbox_id)?;
        let sandbox = lifecycle::delete(&self.ctx, account, id, &caller.subject_id).await.map_err(status)?;
        Ok(Response::new(proto::DeleteSandboxResponse { sandbox: Some(sandbox.into()) }))
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let key = call_key("Exec", &request, &request.get_ref().key)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let call = Call::Command(Command::try_from(request).map_err(status)?);
        let record = self.call(account, id, key, call).await?;
        Ok(Response::new(proto::ExecResponse { exec: Some(record.into()) }))
    }

    async fn resolve_exec(
        &self,
        request: Request<proto::ResolveExecRequest>,
    ) -> Result<Response<proto::ResolveExecResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let key = Key::parse(request.key).map_err(status)?;
        let wait = convert::wait(request.wait).map_err(status)?;
        let question = Question { wait, cancel: request.cancel };
        let record = execs::resolve(&self.ctx, account, id, key, question).await.map_err(status)?;
        Ok(Response::new(proto::ResolveExecResponse { exec: Some(record.into()) }))
    }

    async fn read_file(
        &self,
        request: Request<proto::ReadFileRequest>,
    ) -> Result<Response<proto::ReadFileResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        check_path("path", &request.path).map_err(status)?;
        let content = files::read(&self.ctx, account, id, request.path).await.map_err(status)?;
        Ok(Response::new(proto::ReadFileResponse { content }))
    }

    async fn write_file(
        &self,
        request: Request<proto::WriteFileRequest>,
    ) -> Result<Response<proto::WriteFileResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let key = call_key("WriteFile", &request, &request.get_ref().key)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let call = Call::Write(Write::try_from(request).map_err(status)?);
        let record = self.call(account, id, key, call).await?;
        Ok(Response::new(proto::WriteFileResponse { exec: Some(record.into()) }))
    }

    async fn list_files(
        &self,
        request: Request<proto::ListFilesRequest>,
    ) -> Result<Response<proto::ListFilesResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        check_path("path", &request.path).map_err(status)?;
        let (entries, truncated) = files::list(&self.ctx, account, id, request.path).await.map_err(status)?;
        let entries = entries.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListFilesResponse { entries, truncated }))
    }
}
