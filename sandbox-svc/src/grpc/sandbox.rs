//! `SandboxService`: sandboxes, what is run in them, and their files.

use steward_proto::sandbox::v1::{
    self as proto,
    sandbox_service_server::{SandboxService, SandboxServiceServer},
};
use svc_core::{
    audit::principal_id,
    id::{SandboxId, SessionId},
};
use tonic::{Request, Response, Status};

use super::{caller, convert, status};
use crate::{
    app::{Shared, execs, files, lifecycle, provision},
    domain::exec::{Call, Command, Key, Write, check_path},
};

/// Serves `SandboxService`.
#[derive(Debug, Clone)]
pub struct SandboxHandler {
    ctx: Shared,
}

impl SandboxHandler {
    /// Serves these use cases.
    #[must_use]
    pub const fn new(ctx: Shared) -> Self {
        Self { ctx }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> SandboxServiceServer<Self> {
        SandboxServiceServer::new(self)
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
        let account = caller(&request)?.account_id().map_err(status)?;
        let session = SessionId::parse("session_id", &request.get_ref().session_id).map_err(status)?;
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
        let sandbox =
            lifecycle::delete(&self.ctx, account, id, principal_id(&caller)).await.map_err(status)?;
        Ok(Response::new(proto::DeleteSandboxResponse { sandbox: Some(sandbox.into()) }))
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let mut request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let key = Key::parse_or_new(std::mem::take(&mut request.key)).map_err(status)?;
        let call = Call::Command(Command::try_from(request).map_err(status)?);
        let record = execs::call(&self.ctx, account, id, key, call).await.map_err(status)?;
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
        let record = execs::resolve(&self.ctx, account, id, key, wait).await.map_err(status)?;
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
        let mut request = request.into_inner();
        let id = sandbox_id(&request.sandbox_id)?;
        let key = Key::parse_or_new(std::mem::take(&mut request.key)).map_err(status)?;
        let call = Call::Write(Write::try_from(request).map_err(status)?);
        let record = execs::call(&self.ctx, account, id, key, call).await.map_err(status)?;
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
