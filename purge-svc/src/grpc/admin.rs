//! `PurgeAdminService`: what operators decide about erasures.

use steward_proto::purge::v1::{
    self as proto,
    purge_admin_service_server::{PurgeAdminService, PurgeAdminServiceServer},
};
use svc_core::id::parse_id;
use tonic::{Request, Response, Status};

use super::{caller, convert, once, status};
use crate::app::{
    dead_letters::DeadLetters,
    holds::{Holds, NewHold},
    ledger::Ledger,
};

/// Serves `PurgeAdminService`.
#[derive(Debug, Clone)]
pub struct PurgeAdminHandler {
    holds: Holds,
    dead_letters: DeadLetters,
    ledger: Ledger,
}

impl PurgeAdminHandler {
    /// Serves these.
    #[must_use]
    pub const fn new(holds: Holds, dead_letters: DeadLetters, ledger: Ledger) -> Self {
        Self { holds, dead_letters, ledger }
    }

    /// As a tower service.
    #[must_use]
    pub fn into_server(self) -> PurgeAdminServiceServer<Self> {
        PurgeAdminServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl PurgeAdminService for PurgeAdminHandler {
    async fn set_hold(
        &self,
        request: Request<proto::SetHoldRequest>,
    ) -> Result<Response<proto::SetHoldResponse>, Status> {
        let caller = caller(&request)?;
        let once = once("steward.purge.v1.PurgeAdminService/SetHold", &request)?;
        let new = NewHold::try_from(request.into_inner()).map_err(status)?;
        let hold = self.holds.set(&new, &caller.subject_id, &once).await.map_err(status)?;
        Ok(Response::new(proto::SetHoldResponse { hold: Some(hold.into()) }))
    }

    async fn release_hold(
        &self,
        request: Request<proto::ReleaseHoldRequest>,
    ) -> Result<Response<proto::ReleaseHoldResponse>, Status> {
        let caller = caller(&request)?;
        let id = parse_id("hold_id", &request.get_ref().hold_id).map_err(status)?;
        let hold = self.holds.release(id, &caller.subject_id).await.map_err(status)?;
        Ok(Response::new(proto::ReleaseHoldResponse { hold: Some(hold.into()) }))
    }

    async fn list_holds(
        &self,
        request: Request<proto::ListHoldsRequest>,
    ) -> Result<Response<proto::ListHoldsResponse>, Status> {
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.holds.list(size, &request.page_token).await.map_err(status)?;
        let (holds, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListHoldsResponse { holds, next_page_token }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::ListDeadLettersRequest>,
    ) -> Result<Response<proto::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let size = convert::page_size(request.page_size).map_err(status)?;
        let page = self.dead_letters.list(size, &request.page_token).await.map_err(status)?;
        let (dead_letters, next_page_token) = convert::parts(page);
        Ok(Response::new(proto::ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn resolve_dead_letter(
        &self,
        request: Request<proto::ResolveDeadLetterRequest>,
    ) -> Result<Response<proto::ResolveDeadLetterResponse>, Status> {
        let caller = caller(&request)?;
        let id = parse_id("dead_letter_id", &request.get_ref().dead_letter_id).map_err(status)?;
        let letter = self.dead_letters.resolve(id, &caller.subject_id).await.map_err(status)?;
        Ok(Response::new(proto::ResolveDeadLetterResponse { dead_letter: Some(letter.into()) }))
    }

    async fn check_ledger(
        &self,
        _request: Request<proto::CheckLedgerRequest>,
    ) -> Result<Response<proto::CheckLedgerResponse>, Status> {
        let checked = self.ledger.check().await.map_err(status)?;
        Ok(Response::new(checked.into()))
    }
}
