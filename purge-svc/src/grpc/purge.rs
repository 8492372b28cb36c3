//! `PurgeService`: erasures of an account's sessions.

use steward_proto::purge::v1::{
    self as proto,
    purge_service_server::{PurgeService, PurgeServiceServer},
};
use svc_core::{
    id::{PurgeId, SessionId},
    run::telemetry,
    wire::{
        grpc::{Call, page_size, parts},
        principal::PrincipalKind,
    },
};
use tonic::{Request, Response, Status};

use crate::{
    app::jobs::{Jobs, PurgeRequest},
    domain::job::JobFilter,
};

#[derive(Debug, Clone)]
pub(crate) struct PurgeHandler {
    jobs: Jobs,
}

impl PurgeHandler {
    pub(crate) const fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    pub(crate) fn into_server(self) -> PurgeServiceServer<Self> {
        PurgeServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl PurgeService for PurgeHandler {
    async fn purge_session(
        &self,
        request: Request<proto::PurgeSessionRequest>,
    ) -> Result<Response<proto::PurgeSessionResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let demand = PurgeRequest {
            account: call.account()?,
            session: SessionId::parse("session_id", &request.session_id)?,
            traceparent: telemetry::traceparent(&tracing::Span::current()),
            once: call.once()?,
            principal_id: call.principal().subject_id.clone(),
        };
        let purge = self.jobs.accept(&demand).await?;
        Ok(Response::new(proto::PurgeSessionResponse { purge: Some(purge.into()) }))
    }

    async fn get_purge(
        &self,
        request: Request<proto::GetPurgeRequest>,
    ) -> Result<Response<proto::GetPurgeResponse>, Status> {
        let (call, request) = Call::take(request)?;
        // Operators see every account's jobs; every other caller its own.
        let account = match call.principal().kind {
            PrincipalKind::Admin => None,
            PrincipalKind::Account | PrincipalKind::Agent | PrincipalKind::Service => Some(call.account()?),
        };
        let id = PurgeId::parse("purge_id", &request.purge_id)?;
        let purge = self.jobs.get(account, id).await?;
        Ok(Response::new(proto::GetPurgeResponse { purge: Some(purge.into()) }))
    }

    async fn list_purges(
        &self,
        request: Request<proto::ListPurgesRequest>,
    ) -> Result<Response<proto::ListPurgesResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let size = page_size(request.page_size)?;
        let filter = JobFilter::try_from(&request)?;
        let page = self.jobs.list(call.account()?, &filter, size, &request.page_token).await?;
        let (purges, next_page_token) = parts(page);
        Ok(Response::new(proto::ListPurgesResponse { purges, next_page_token }))
    }

    async fn cancel_purge(
        &self,
        request: Request<proto::CancelPurgeRequest>,
    ) -> Result<Response<proto::CancelPurgeResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let id = PurgeId::parse("purge_id", &request.purge_id)?;
        let purge = self.jobs.cancel(call.account()?, id, &call.once()?).await?;
        Ok(Response::new(proto::CancelPurgeResponse { purge: Some(purge.into()) }))
    }
}
