//! `SandboxService`: sandboxes, keyed calls, and files.

use steward_proto::sandbox::v1::{self as proto, sandbox_service_server::SandboxService};
use svc_core::{
    error::Invalid,
    id::{SandboxId, SessionId},
    wire::grpc::{Call, page_size, parts},
};
use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    app::{admission::Admission, execs::Execs, files::Files, sandboxes::Sandboxes},
    domain::{
        exec::{self, Command, Key, ResolveOptions, Write},
        sandbox::Filter,
    },
};

#[derive(Debug, Clone)]
pub struct SandboxHandler {
    pub admission: Admission,
    pub sandboxes: Sandboxes,
    pub execs: Execs,
    pub files: Files,
}

/// Returns the key of a call: the key in its message, or else a key derived from its `idempotency-key`, or
/// else a new one.
fn call_key(method: &str, call: &Call, given: String) -> Result<Key, Invalid> {
    match call.key()? {
        Some(header) if given.is_empty() => Ok(Key::of_request(method, header)),
        Some(_) | None => Ok(Key::given_or_new(given)),
    }
}

fn sandbox_id(text: &str) -> Result<SandboxId, Invalid> {
    SandboxId::parse("sandbox_id", text)
}

#[tonic::async_trait]
impl SandboxService for SandboxHandler {
    async fn create_sandbox(
        &self,
        request: Request<proto::CreateSandboxRequest>,
    ) -> Result<Response<proto::CreateSandboxResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let session = SessionId::parse("session_id", &request.session_id)?;
        let view = self.admission.create(call.principal(), session, &call.once()?).await?;
        Ok(Response::new(proto::CreateSandboxResponse { sandbox: Some(view.into()) }))
    }

    async fn get_sandbox(
        &self,
        request: Request<proto::GetSandboxRequest>,
    ) -> Result<Response<proto::GetSandboxResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (id, wait) = (sandbox_id(&request.sandbox_id)?, convert::wait(request.wait)?);
        let view = self.sandboxes.get(call.account()?, id, wait).await?;
        Ok(Response::new(proto::GetSandboxResponse { sandbox: Some(view.into()) }))
    }

    async fn list_sandboxes(
        &self,
        request: Request<proto::ListSandboxesRequest>,
    ) -> Result<Response<proto::ListSandboxesResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (filter, size) = (Filter::try_from(&request)?, page_size(request.page_size)?);
        let page = self.sandboxes.list(call.account()?, filter, size, &request.page_token).await?;
        let (sandboxes, next_page_token) = parts(page);
        Ok(Response::new(proto::ListSandboxesResponse { sandboxes, next_page_token }))
    }

    async fn delete_sandbox(
        &self,
        request: Request<proto::DeleteSandboxRequest>,
    ) -> Result<Response<proto::DeleteSandboxResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = sandbox_id(&request.sandbox_id)?;
        let by = &call.principal().subject_id;
        let sandbox = self.sandboxes.delete(call.account()?, id, by, &call.once()?).await?;
        Ok(Response::new(proto::DeleteSandboxResponse { sandbox: Some(sandbox.into()) }))
    }

    async fn exec(
        &self,
        request: Request<proto::ExecRequest>,
    ) -> Result<Response<proto::ExecResponse>, Status> {
        let (call, mut request) = Call::take(request)?;
        let key = call_key("Exec", &call, std::mem::take(&mut request.key))?;
        let id = sandbox_id(&request.sandbox_id)?;
        let command = exec::Call::Command(Command::try_from(request)?);
        let record = self.execs.call(call.account()?, id, key, command).await?;
        Ok(Response::new(proto::ExecResponse { exec: Some(record.into()) }))
    }

    async fn resolve_exec(
        &self,
        request: Request<proto::ResolveExecRequest>,
    ) -> Result<Response<proto::ResolveExecResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let (id, key) = (sandbox_id(&request.sandbox_id)?, Key::from(request.key));
        let options = ResolveOptions { wait: convert::wait(request.wait)?, cancel: request.cancel };
        let record = self.execs.resolve(call.account()?, id, key, options).await?;
        Ok(Response::new(proto::ResolveExecResponse { exec: Some(record.into()) }))
    }

    async fn read_file(
        &self,
        request: Request<proto::ReadFileRequest>,
    ) -> Result<Response<proto::ReadFileResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = sandbox_id(&request.sandbox_id)?;
        let content = self.files.read(call.account()?, id, request.path).await?;
        Ok(Response::new(proto::ReadFileResponse { content }))
    }

    async fn write_file(
        &self,
        request: Request<proto::WriteFileRequest>,
    ) -> Result<Response<proto::WriteFileResponse>, Status> {
        let (call, mut request) = Call::take(request)?;
        let key = call_key("WriteFile", &call, std::mem::take(&mut request.key))?;
        let id = sandbox_id(&request.sandbox_id)?;
        let proto::WriteFileRequest { path, content, mode, .. } = request;
        let write = exec::Call::Write(Write { path, content, mode });
        let record = self.execs.call(call.account()?, id, key, write).await?;
        Ok(Response::new(proto::WriteFileResponse { exec: Some(record.into()) }))
    }

    async fn list_files(
        &self,
        request: Request<proto::ListFilesRequest>,
    ) -> Result<Response<proto::ListFilesResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = sandbox_id(&request.sandbox_id)?;
        let listing = self.files.list(call.account()?, id, request.path).await?;
        let entries = listing.entries.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ListFilesResponse { entries, truncated: listing.truncated }))
    }
}
