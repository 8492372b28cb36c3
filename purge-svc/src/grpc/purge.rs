//! `PurgeService`: accounts and their erasures.

use steward_proto::purge::v1::{
    self as proto,
    purge_service_server::{PurgeService, PurgeServiceServer},
};
use svc_core::{
    id::{PurgeId, SessionId},
    run::telemetry,
    wire::principal::PrincipalKind,
};
use tonic::{Request, Response, Status};

use super::{caller, convert, once, status};
use crate::app::jobs::{Demand, Jobs};

/// Serves `PurgeService`.
#[derive(Debug, Clone)]
pub struct PurgeHandler {
    jobs: Jobs,
}

impl PurgeHandler {
    /// Serves these jobs.
    #[must_use]
    pub const fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> PurgeServiceServer<Self> {
        PurgeServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl PurgeService for PurgeHandler {
    async fn purge_session(
        &self,
        request: Request<proto::PurgeSessionRequest>,
    ) -> Result<Response<proto::PurgeSessionResponse>, Status> {
        let caller = caller(&request)?;
        let demand = Demand {
            account: caller.account_id().map_err(status)?,
            session: SessionId::parse("session_id", &request.get_ref().session_id).map_err(status)?,
            traceparent: telemetry::traceparent(&tracing::Span::current()),
            once: once("steward.purge.v1.PurgeService/PurgeSession", &request)?,
            principal_id: caller.subject_id,
        };
        let purge = self.jobs.accept(&demand).await.map_err(status)?;
        Ok(Response::new(proto::PurgeSessionResponse { purge: Some(purge.into()) }))
    }

    async fn get_purge(
        &self,
        request: Request<proto::GetPurgeRequest>,
    ) -> Result<Response<proto::GetPurgeResponse>, Status> {
        let caller = caller(&request)?;
        // Operators see every account's jobs; everybody else their own.
        let account = match caller.kind {
            PrincipalKind::Admin => None,
            PrincipalKind::Account | PrincipalKind::Agent | PrincipalKind::Service => {
                Some(caller.account_id().map_err(status)?)
            }
        };
        let id = PurgeId::parse("purge_id", &request.get_ref().purge_id).map_err(status)?;
        let purge = self.jobs.get(account, id).await.map_err(status)?;
        Ok(Response::new(proto::GetPurgeResponse { purge: Some(purge.into()) }))
    }

    async fn list_purges(
        &self,
        request: Request<proto::ListPurgesRequest>,
    ) -> Result<Response<proto::ListPurgesResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.jobs.list(account, size, &request.page_token).await.map_err(status)?;
        let (purges, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListPurgesResponse { purges, next_page_token }))
    }

    async fn cancel_purge(
        &self,
        request: Request<proto::CancelPurgeRequest>,
    ) -> Result<Response<proto::CancelPurgeResponse>, Status> {
        let account = caller(&request)?.account_id().map_err(status)?;
        let id = PurgeId::parse("purge_id", &request.get_ref().purge_id).map_err(status)?;
        let purge = self.jobs.cancel(account, id).await.map_err(status)?;
        Ok(Response::new(proto::CancelPurgeResponse { purge: Some(purge.into()) }))
    }
}
